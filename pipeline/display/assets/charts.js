"use strict";
// Charts as inline SVG. Every function takes plain numbers and answers an <svg>; text is set as text, never as markup.

const RATE = 16000;
const SVG = "http://www.w3.org/2000/svg";

function el(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== undefined) node.setAttribute(key, value);
  for (const child of children) if (child !== null) node.append(child);
  return node;
}

function tip(text) { return el("title", {}, text); }

function svg(width, height, label) {
  return el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

// The width a chart has on this page, so that its text stays 12 px on a telephone as on a wide screen.
function widthOf(id) { return Math.max(280, Math.round(document.getElementById(id).clientWidth || 640)); }

function time(samples) {
  const seconds = samples / RATE;
  if (seconds === 0) return "0 s";
  if (seconds < 59.95) return seconds.toFixed(1) + " s";
  if (seconds < 3597) return (seconds / 60).toFixed(1) + " min";
  const hours = seconds / 3600;
  if (hours >= 999500) return (hours / 1e6).toFixed(2) + " M h";
  return hours < 99.995 ? hours.toFixed(2) + " h" : grouped(Math.round(hours)) + " h";
}

function grouped(number) { return String(Math.round(number)).replace(/\B(?=(\d{3})+(?!\d))/g, ","); }

function percent(part, whole) {
  if (!whole) return "–";
  const value = 100 * part / whole;
  if (value >= 99.95 && value < 100) return "99.9 %";
  return value > 0 && value < 0.05 ? "<0.1 %" : value.toFixed(1) + " %";
}

// Rough width of a text of 12 px: Han characters are twice as wide as Latin ones.
function breadth(text) { let sum = 0; for (const c of text) sum += c.codePointAt(0) > 0x2e7f ? 12 : 6.8; return sum; }

function shorten(text, room) {
  const letters = Array.from(text);
  if (breadth(text) <= room) return text;
  while (letters.length > 1 && breadth(letters.join("")) > room - 9) letters.pop();
  return letters.join("") + "…";
}

function niceStep(most, steps) {
  const raw = most / steps, power = Math.pow(10, Math.floor(Math.log10(raw)));
  return power * [1, 2, 2.5, 5, 10].find((each) => each * power >= raw * 0.999);
}

// One row per item: a label, a bar of parts [class, value, name], and a figure to the right. Each bar is as long as its whole.
function stackedBars(rows, options) {
  const width = options.width, step = options.step || 26, bar = step - 8;
  const narrow = width < 480;
  const widest = Math.max(0, ...rows.map((row) => breadth(row.label)));
  const left = widest ? Math.min(narrow ? 110 : 200, Math.max(40, widest) + 12) : 0;
  const right = options.figures === false ? 0 : Math.max(0, ...rows.map((row) => breadth(row.figure))) + 10;
  const room = Math.max(60, width - left - right);
  const chart = svg(width, rows.length * step + 4, options.label);
  rows.forEach((row, index) => {
    const y = index * step + 4;
    const group = el("g", {});
    if (left) group.append(el("text", { x: left - 8, y: y + bar / 2 + 4, "text-anchor": "end" }, shorten(row.label, left - 8), tip(row.label)));
    group.append(el("rect", { class: "track", x: left, y, width: room, height: bar, rx: 2 }));
    let at = left;
    for (const [kind, value, name] of row.parts) {
      const size = row.whole ? room * value / row.whole : 0;
      if (size > 0) group.append(el("rect", { class: kind, x: at, y, width: size, height: bar }, tip(`${row.label} · ${name}: ${time(value)} (${percent(value, row.whole)})`)));
      at += size;
    }
    if (row.mark !== undefined) group.append(el("line", { class: "was", x1: left + room * row.mark, x2: left + room * row.mark, y1: y - 2, y2: y + bar + 2 }));
    if (options.figures !== false) group.append(el("text", { x: left + room + 8, y: y + bar / 2 + 4 }, row.figure));
    chart.append(group);
  });
  return chart;
}

// Steps [label, class, samples, detail] from a total down to what is kept; each bar starts where the one before ended.
function waterfall(total, steps, kept, options) {
  const width = options.width, step = 28, bar = 18, narrow = width < 480;
  const rows = [["In", "in", total, ""], ...steps, ["Kept", "kept", kept, ""]];
  const left = Math.min(narrow ? 130 : 220, Math.max(...rows.map((row) => breadth(row[0]))) + 14);
  const right = narrow ? 74 : 138;
  const room = Math.max(60, width - left - right);
  const chart = svg(width, rows.length * step + 6, options.label);
  const scale = (samples) => total ? room * samples / total : 0;
  let level = total;
  rows.forEach(([label, kind, samples, detail], index) => {
    const y = index * step + 4, down = index > 0 && index < rows.length - 1;
    const end = down ? level : samples, begin = down ? level - samples : 0;
    if (index > 0) chart.append(el("line", { class: "link", x1: left + scale(end), x2: left + scale(end), y1: y - (step - bar), y2: y }));
    chart.append(el("text", { x: left - 8, y: y + 13, "text-anchor": "end", class: down ? "" : "strong" }, shorten(label, left - 8), tip(label)));
    chart.append(el("rect", { class: kind, x: left + scale(begin), y, width: Math.max(scale(end - begin), samples ? 1 : 0), height: bar },
      tip(`${label}: ${time(samples)}, ${grouped(samples)} samples${detail ? " · " + detail : ""}`)));
    const sign = down && samples ? "−" : "";
    const weight = down ? "" : "strong";
    chart.append(el("text", { x: left + room + 74, y: y + 13, class: weight, "text-anchor": "end" }, sign + time(samples)));
    if (!narrow) chart.append(el("text", { x: width, y: y + 13, class: weight || "faint", "text-anchor": "end" }, percent(samples, total)));
    if (down) level -= samples;
  });
  return chart;
}

// Bars [from, to, kept, rejected (samples), title] over a linear axis with named ticks; `limit` draws a threshold.
function histogram(bins, options) {
  const width = options.width, height = 210, left = 52, bottom = 26, top = 16, right = 8;
  const chart = svg(width, height, options.label);
  const most = Math.max(0, ...bins.map((bin) => bin.kept + bin.rejected));
  if (!most) { chart.append(el("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "faint" }, "nothing was measured")); return chart; }
  const unit = most / RATE >= 3600 ? ["h", 3600] : most / RATE >= 60 ? ["min", 60] : ["s", 1];
  const step = niceStep(most / RATE / unit[1], 4), ceiling = Math.ceil(most / RATE / unit[1] / step) * step;
  const x = (value) => left + (width - left - right) * (value - options.from) / (options.to - options.from);
  const y = (samples) => height - bottom - (height - bottom - top) * samples / RATE / unit[1] / ceiling;
  for (let level = 0; level <= ceiling * 1.001; level += step) {
    const at = y(level * RATE * unit[1]);
    chart.append(el("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    chart.append(el("text", { class: "tick", x: left - 6, y: at + 4, "text-anchor": "end" }, `${Number(level.toPrecision(6))}${level ? " " + unit[0] : ""}`));
  }
  for (const bin of bins) {
    const inset = x(bin.to) - x(bin.from) > 5 ? 0.75 : 0.2;
    let base = 0;
    for (const [kind, samples, name] of [["kept", bin.kept, "kept"], ["lost", bin.rejected, "rejected"]]) {
      if (!samples) continue;
      chart.append(el("rect", { class: kind, x: x(bin.from) + inset, width: Math.max(0.5, x(bin.to) - x(bin.from) - 2 * inset), y: y(base + samples), height: Math.max(0.5, y(base) - y(base + samples)) },
        tip(`${bin.title}: ${time(samples)} ${name}`)));
      base += samples;
    }
  }
  chart.append(el("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  for (const [value, text] of options.ticks) chart.append(el("text", { class: "tick", x: x(value), y: height - bottom + 15, "text-anchor": "middle" }, text));
  if (options.limit !== undefined && options.limit >= options.from && options.limit <= options.to) {
    const at = x(options.limit);
    chart.append(el("line", { class: "limit", x1: at, x2: at, y1: 4, y2: height - bottom }));
    chart.append(el("text", { class: "limit-text", x: at + 5, y: 13 }, options.limitText));
  }
  return chart;
}

// Lines of [x, share 0-1]; `lines` = [{points, kind, title}], drawn in order; `at` marks the slider, `was` the run.
function curves(lines, options) {
  const width = options.width, height = 230, left = 44, bottom = 26, top = 8, right = 12;
  const chart = svg(width, height, options.label);
  const most = Math.max(0.01, ...lines.flatMap((line) => line.points.map((point) => point[1])));
  const ceiling = Math.min(1, Math.ceil(most * 10 + 0.2) / 10);
  const x = (value) => left + (width - left - right) * value / options.to;
  const y = (share) => height - bottom - (height - bottom - top) * share / ceiling;
  const step = ceiling > 0.5 ? 0.2 : ceiling > 0.2 ? 0.1 : 0.05;
  for (let level = 0; level <= ceiling + 1e-9; level += step) {
    chart.append(el("line", { class: "grid", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
    chart.append(el("text", { class: "tick", x: left - 6, y: y(level) + 4, "text-anchor": "end" }, `${Math.round(level * 100)} %`));
  }
  for (const [value, text] of options.ticks) chart.append(el("text", { class: "tick", x: x(value), y: height - bottom + 15, "text-anchor": "middle" }, text));
  if (options.was !== undefined) chart.append(el("line", { class: "limit", x1: x(options.was), x2: x(options.was), y1: top, y2: height - bottom }, tip("limit of this run")));
  for (const line of lines) {
    const path = line.points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
    chart.append(el("path", { class: line.kind, d: path }, tip(line.title)));
  }
  if (options.at) chart.append(el("circle", { class: "dot", cx: x(options.at[0]), cy: y(options.at[1]), r: 6 }));
  return chart;
}

// A grid of cells {i, j, samples, title} on named edges; darker is more, by square root. Full agreement (0, 0) would pale the rest.
// `limits` = [x, y] in cells.
function heatmap(cells, options) {
  const width = options.width, left = 44, bottom = 36, top = 6, right = 8, count = options.count;
  const size = Math.min((width - left - right) / count, 13), rise = size;
  const height = top + rise * count + bottom;
  const chart = svg(width, height, options.label);
  const most = Math.max(1, ...cells.map((cell) => (cell.i || cell.j ? cell.samples : 1)));
  const x = (i) => left + i * size, y = (j) => top + rise * (count - j);
  chart.append(el("rect", { class: "track", x: left, y: top, width: size * count, height: rise * count }));
  for (const cell of cells) {
    chart.append(el("rect", { class: "cell", x: x(cell.i), y: y(cell.j + 1), width: size - 0.5, height: rise - 0.5, "fill-opacity": (0.12 + 0.88 * Math.sqrt(Math.min(1, cell.samples / most))).toFixed(3) }, tip(cell.title)));
  }
  for (const [value, text] of options.ticks) {
    chart.append(el("text", { class: "tick", x: x(value), y: top + rise * count + 14, "text-anchor": "middle" }, text));
    chart.append(el("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  chart.append(el("text", { class: "tick", x: left + size * count / 2, y: top + rise * count + 30, "text-anchor": "middle" }, "WER, %"));
  chart.append(el("text", { class: "tick", x: 10, y: top + rise * count / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${top + rise * count / 2})` }, "PER, %"));
  const [wer, per] = options.limits, far = count;
  const inner = options.both ? `M${x(wer)} ${y(far)}V${y(per)}H${x(far)}` : `M${x(wer)} ${y(0)}V${y(per)}H${x(0)}`;
  chart.append(el("path", { class: "limit", d: inner, fill: "none" }));
  return chart;
}
