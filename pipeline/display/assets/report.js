(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { scopes, languages, edges, rule } = data;
  const total = scopes[0], domains = scopes.slice(1), agreement = new Set(data.agreement);
  const score = edges.score, bins = score.length + 1, none = score.length;
  const byId = (id) => document.getElementById(id);
  const put = (id, chart) => { const place = byId(id); if (place) place.replaceChildren(chart); };

  // --- what the accounts say -----------------------------------------------------------------------------------------
  function parts(scope) {
    let disagree = 0, rejected = 0;
    for (const [, reason, samples] of scope.rejected) if (agreement.has(reason)) disagree += samples; else rejected += samples;
    return [["kept", scope.kept, "kept"], ["disagree", disagree, "transcripts disagree"], ["rejected", rejected, "rejected otherwise"],
      ["silent", scope.nonSpeech, "not speech"], ["unreadable", scope.unreadable, "unreadable"]];
  }

  function legend() {
    for (const place of document.querySelectorAll("[data-legend]")) {
      const names = place.dataset.legend === "two" ? [["kept", "kept"], ["lost", "rejected"]] : parts(total).map(([kind, , name]) => [kind, name]);
      place.replaceChildren(...names.map(([kind, name]) => { const span = document.createElement("span"); span.className = kind; span.textContent = name; return span; }));
    }
  }

  function drawAccounts() {
    if (byId("overview-bar")) {
      put("overview-bar", stackedBars([{ label: "", parts: parts(total), whole: total.input, figure: "" }], { width: widthOf("overview-bar"), step: 34, figures: false, label: "What became of the input" }));
    }
    put("domain-bars", stackedBars(domains.map((scope) => ({ label: scope.name, parts: parts(scope), whole: scope.input, figure: `${percent(scope.kept, scope.input)} of ${time(scope.input)}` })),
      { width: widthOf("domain-bars"), step: domains.length > 20 ? 22 : 28, label: "Retention per domain" }));
  }

  function drawWaterfall(scope) {
    const steps = [];
    if (scope.unreadable) steps.push(["unreadable", "unreadable", scope.unreadable, "files or stretches that could not be decoded"]);
    if (scope.nonSpeech) steps.push(["not speech", "silent", scope.nonSpeech, "music, noise, silence"]);
    for (const [stage, reason, samples, clips] of scope.rejected) {
      steps.push([`${stage}: ${reason}`, agreement.has(reason) ? "disagree" : "rejected", samples, `${grouped(clips)} clips. ${data.explanations[reason] || ""}`]);
    }
    put("waterfall-chart", waterfall(scope.input, steps, scope.kept, { width: widthOf("waterfall-chart"), label: `From ${time(scope.input)} in to ${time(scope.kept)} kept, ${scope.name}` }));
  }

  // --- what other thresholds would keep --------------------------------------------------------------------------------
  // Sums over all cells up to (wer, per), so that any pair of limits is one look-up.
  const sums = scopes.map((scope) => {
    const grid = new Float64Array(bins * bins);
    for (let at = 0; at < scope.joint.length; at += 2) grid[scope.joint[at]] = scope.joint[at + 1];
    for (let i = 0; i < bins; i++) for (let j = 0; j < bins; j++) {
      grid[i * bins + j] += (i ? grid[(i - 1) * bins + j] : 0) + (j ? grid[i * bins + j - 1] : 0) - (i && j ? grid[(i - 1) * bins + j - 1] : 0);
    }
    return grid;
  });

  // Bin i holds rates up to edge i; index `none` is no limit at all.
  function keptAt(index, wer, per, both) {
    const grid = sums[index], all = none;
    if (!both) return grid[wer * bins + per];
    return grid[all * bins + per] + grid[wer * bins + all] - grid[wer * bins + per];
  }

  function edgeIndex(limit) { let at = 0; while (at + 1 < score.length && score[at + 1] <= limit) at++; return limit > score[none - 1] ? none : at; }
  const limitText = (index) => index >= none ? "no limit" : `≤ ${score[index]} %`;
  // A linear axis to 30 %, then the rest squeezed into three units, "no limit" at its end.
  const bend = score.indexOf(30);
  const place = (index) => index <= bend ? score[index] : 30 + 3 * (index - bend) / (none - bend);
  const axis = [[0, "0"], [5, "5"], [10, "10"], [15, "15"], [20, "20"], [25, "25"], [30, "30"], [33, "∞"]];
  const own = { wer: edgeIndex(rule.maxWer), per: edgeIndex(rule.maxPer), both: rule.dropWhen === "both" };
  const state = { ...own, joint: 0 };

  function drawThresholds() {
    const { wer, per, both } = state;
    byId("max-wer").value = wer; byId("max-per").value = per;
    byId("max-wer-value").textContent = limitText(wer); byId("max-per-value").textContent = limitText(per);
    for (const radio of document.querySelectorAll("input[name=reading]")) radio.checked = (radio.value === "both") === both;
    byId("max-wer").setAttribute("aria-valuetext", limitText(wer)); byId("max-per").setAttribute("aria-valuetext", limitText(per));

    const now = keptAt(0, wer, per, both), before = keptAt(0, own.wer, own.per, own.both);
    const bold = document.createElement("b"); bold.textContent = `${time(now)} kept, ${percent(now, total.input)} of the input`;
    const change = now === before ? "as in this run" : `${now > before ? "+" : "−"}${time(Math.abs(now - before))} against this run`;
    byId("live").replaceChildren(bold, ` — ${change}.`);

    for (const which of ["wer", "per"]) {
      const lines = scopes.map((scope, index) => ({
        points: Array.from({ length: bins }, (_, at) => [place(at), scope.input ? keptAt(index, which === "wer" ? at : wer, which === "wer" ? per : at, both) / scope.input : 0]),
        kind: index ? "each" : "curve", title: scope.name,
      }));
      const here = which === "wer" ? wer : per, id = `curve-${which}`;
      put(id, curves([...lines.slice(1), lines[0]], { width: widthOf(id), to: 33, ticks: axis, at: [place(here), total.input ? now / total.input : 0], was: place(own[which]),
        label: `Share of the input kept against max ${which.toUpperCase()}` }));
    }
    put("live-bars", stackedBars(domains.map((scope, index) => {
      const kept = keptAt(index + 1, wer, per, both);
      return { label: scope.name, parts: [["kept", kept, "kept with these limits"]], whole: scope.input, figure: percent(kept, scope.input), mark: scope.input ? scope.kept / scope.input : undefined };
    }), { width: widthOf("live-bars"), step: 22, label: "Kept per domain with these limits" }));
    drawJoint();
  }

  // The joint histogram in cells of one point up to 20 %, wider above: [0], (0,1], ... (19,20], (20,25], (25,30], (30,50], (50,100], more.
  const coarse = [0, ...Array.from({ length: 20 }, (_, i) => i + 1), 25, 30, 50, 100, Infinity];
  const upper = (index) => index < none ? score[index] : Infinity;
  const toCoarse = Array.from({ length: bins }, (_, index) => coarse.findIndex((edge) => upper(index) <= edge));
  const cellName = (i) => i === 0 ? "0" : coarse[i] === Infinity ? "over 100" : `${coarse[i - 1]}–${coarse[i]}`;
  function inCells(index) {
    if (index >= none) return coarse.length;
    const cell = toCoarse[index], low = cell ? coarse[cell - 1] : 0;
    return cell === 0 ? 1 : cell + (score[index] - low) / (coarse[cell] - low);
  }

  function drawJoint() {
    const scope = scopes[state.joint], merged = new Map();
    for (let at = 0; at < scope.joint.length; at += 2) {
      const key = toCoarse[Math.floor(scope.joint[at] / bins)] * 100 + toCoarse[scope.joint[at] % bins];
      merged.set(key, (merged.get(key) || 0) + scope.joint[at + 1]);
    }
    const cells = Array.from(merged, ([key, samples]) => {
      const i = Math.floor(key / 100), j = key % 100;
      return { i, j, samples, title: `WER ${cellName(i)} %, PER ${cellName(j)} %: ${time(samples)}` };
    });
    const ticks = [[0.5, "0"], [6, "5"], [11, "10"], [16, "15"], [21, "20"], [23, "30"], [25, "100"]];
    put("joint", heatmap(cells, { width: widthOf("joint"), count: coarse.length, ticks, limits: [inCells(state.wer), inCells(state.per)], both: state.both, label: `WER against PER, ${scope.name}` }));
  }

  // --- distributions ---------------------------------------------------------------------------------------------------
  function range(values, from, to) { let sum = 0; for (let at = from; at <= to; at++) sum += values[at]; return sum; }

  function scoreBins([, kept, , rejected]) {
    // One bar for exactly 0, one per point, one for all above 30: equal widths for equal ranges.
    const bars = [{ from: -1, to: 0, kept: kept[0], rejected: rejected[0], title: "0 %" }];
    for (let top = 1, at = 1; top <= 30; top++) {
      const first = at;
      while (at < none && score[at] <= top) at++;
      bars.push({ from: top - 1, to: top, kept: range(kept, first, at - 1), rejected: range(rejected, first, at - 1), title: `over ${top - 1} to ${top} %` });
    }
    const rest = bend + 1;
    bars.push({ from: 30.5, to: 32.5, kept: range(kept, rest, none), rejected: range(rejected, rest, none), title: "over 30 %" });
    return bars;
  }

  function evenBins([, kept, , rejected], lower, step, name) {
    return kept.map((_, at) => ({ from: lower + at * step, to: lower + (at + 1) * step, kept: kept[at], rejected: rejected[at], title: name(lower + at * step, at === kept.length - 1) }));
  }

  function drawDistributions(scope) {
    const ticks = [[-0.5, "0"], [5, "5"], [10, "10"], [15, "15"], [20, "20"], [25, "25"], [31.5, ">30"]];
    for (const which of ["wer", "per"]) {
      const limit = which === "wer" ? rule.maxWer : rule.maxPer, id = `hist-${which}`;
      put(id, histogram(scoreBins(scope[which]), { width: widthOf(id), from: -1, to: 32.5, ticks, limit: Math.min(limit, 30.25), limitText: `limit ${limit} %`, label: `${which.toUpperCase()} of clips, ${scope.name}` }));
    }
    put("hist-rate", histogram(evenBins(scope.rate, 0, 0.25, (at, last) => last ? "12 per second and more" : `${at}–${at + 0.25} per second`),
      { width: widthOf("hist-rate"), from: 0, to: 12.25, ticks: [0, 2, 4, 6, 8, 10, 12].map((at) => [at, at === 12 ? "12+" : String(at)]), label: `Speech rate of clips, ${scope.name}` }));
    put("hist-duration", histogram(evenBins(scope.duration, 0, 1, (at, last) => last ? "over 30 s" : `${at}–${at + 1} s`),
      { width: widthOf("hist-duration"), from: 0, to: 31, ticks: [0, 2, 5, 10, 15, 20, 25, 30].map((at) => [at, String(at)]), label: `Length of clips, ${scope.name}` }));
  }

  // --- quality -----------------------------------------------------------------------------------------------------------
  const quality = data.quality, measures = Array.from(document.querySelectorAll("[data-measure]"), (place) => place.dataset.measure);
  // Bins are as wide as each other whatever their edges are: shares of clipped samples go by powers of ten.
  function drawQuality(scope) {
    for (const measure of measures) {
      const at = quality.edges[measure], found = scope[measure], upward = measure === "clipped", id = `hist-${measure}`;
      const counts = found || [[], [], [], []], all = counts[1].map((kept, bin) => kept + counts[3][bin]);
      const whole = range(all, 0, all.length - 1);
      const bars = all.map((_, bin) => {
        const low = bin ? at[bin - 1] : null, high = bin < at.length ? at[bin] : null;
        const name = low === null ? `below ${high}` : high === null ? `${low} and more` : `${low} to ${high}`;
        const limit = upward ? high : low, lost = upward ? range(all, bin + 1, all.length - 1) : range(all, 0, bin - 1);
        const drop = limit === null ? "" : `; ${upward ? "at most" : "at least"} ${limit} drops ${time(lost)} (${percent(lost, whole)})`;
        return { from: bin, to: bin + 1, kept: counts[1][bin], rejected: counts[3][bin], title: `${name}${drop}` };
      });
      const every = Math.ceil(at.length / 6);
      const ticks = at.map((edge, bin) => [bin + 1, String(edge)]).filter((_, bin) => bin % every === 0);
      put(id, histogram(bars, { width: widthOf(id), from: 0, to: Math.max(1, all.length), ticks, label: `${measure} of clips, ${scope.name}` }));
    }
  }

  // --- controls ----------------------------------------------------------------------------------------------------------
  const chosen = { waterfall: total, distributions: total, quality: quality.scopes[0] };
  function fill(select, groups) {
    for (const [label, list] of groups) {
      const parent = label ? Object.assign(document.createElement("optgroup"), { label }) : select;
      list.forEach((scope) => { const option = document.createElement("option"); option.textContent = scope.name; option.scope = scope; parent.append(option); });
      if (label && list.length) select.append(parent);
    }
    select.addEventListener("change", () => {
      const scope = select.selectedOptions[0].scope;
      if (select.dataset.scope === "joint") { state.joint = scopes.indexOf(scope); drawJoint(); return; }
      chosen[select.dataset.scope] = scope;
      if (select.dataset.scope === "waterfall") drawWaterfall(scope); else drawDistributions(scope);
    });
  }
  for (const select of document.querySelectorAll("select[data-scope]")) {
    fill(select, select.dataset.scope === "distributions" ? [["", [total]], ["Domain", domains], ["Language", languages]] : [["", scopes]]);
  }

  if (byId("quality-scope")) {
    for (const scope of quality.scopes) { const option = document.createElement("option"); option.textContent = scope.name; option.scope = scope; byId("quality-scope").append(option); }
    byId("quality-scope").addEventListener("change", (event) => { chosen.quality = event.target.selectedOptions[0].scope; drawQuality(chosen.quality); });
  }

  for (const which of ["wer", "per"]) {
    const slider = byId(`max-${which}`);
    slider.max = none;
    slider.addEventListener("input", () => { state[which] = Number(slider.value); drawThresholds(); });
  }
  for (const radio of document.querySelectorAll("input[name=reading]")) {
    radio.addEventListener("change", () => { state.both = radio.value === "both"; drawThresholds(); });
  }
  byId("reset").addEventListener("click", () => { Object.assign(state, own); drawThresholds(); });

  function filterClips() {
    const domain = byId("listen-domain").value, outcome = byId("listen-outcome").value;
    const attribute = byId("listen-attribute") ? byId("listen-attribute").value : "";
    const has = (clip) => attribute === "" || (clip.dataset.attributes || "").split("\n").includes(attribute);
    for (const group of document.querySelectorAll(".domain-clips")) {
      group.hidden = domain !== "" && group.dataset.domain !== domain;
      for (const clip of group.querySelectorAll(".clip")) clip.hidden = (outcome !== "" && clip.dataset.outcome !== outcome) || !has(clip);
    }
  }
  if (byId("listen-domain")) {
    // Many domains at once are a wall of cards; the first is enough to begin with.
    if (byId("listen-domain").options.length > 4) byId("listen-domain").value = "0";
    for (const id of ["listen-domain", "listen-outcome", "listen-attribute"]) if (byId(id)) byId(id).addEventListener("change", filterClips);
    filterClips();
  }
  document.addEventListener("play", (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  }, true);

  // --- theme -------------------------------------------------------------------------------------------------------------
  const themes = ["auto", "light", "dark"], button = byId("theme");
  function setTheme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
    button.textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[name];
    button.setAttribute("aria-label", `Colour theme: ${name === "auto" ? "as the system" : name}`);
    button.dataset.now = name;
  }
  // A page opened from disk may not be allowed to remember anything.
  const remember = (name) => { try { localStorage.setItem("report-theme", name); } catch { /* then not */ } };
  let remembered = null;
  try { remembered = localStorage.getItem("report-theme"); } catch { /* then not */ }
  setTheme(themes.includes(remembered) ? remembered : "auto");
  button.addEventListener("click", () => { const next = themes[(themes.indexOf(button.dataset.now) + 1) % 3]; setTheme(next); remember(next); });

  function drawAll() { drawAccounts(); drawWaterfall(chosen.waterfall); drawThresholds(); drawDistributions(chosen.distributions); if (chosen.quality) drawQuality(chosen.quality); }
  legend();
  drawAll();
  let pending = 0, drawnAt = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === drawnAt) return;
    drawnAt = window.innerWidth;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(drawAll);
  });
})();
