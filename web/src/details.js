// What is known of the row that is chosen: what each stage has there, the last first, then what was measured.
import { forget } from "./charts.js";
import { element, percent, short } from "./element.js";
import { describeGrid, drawHistogram, drawMap, drawWeights } from "./pictures.js";
import { chip, mixture } from "./states.js";

/** Fill `place` with the details of an entry of the tree; `visible`: which stages are shown. */
export function showDetails(place, data, chosen, visible) {
  const entry = chosen?.only ?? chosen;
  place.replaceChildren();
  forget();
  if (!entry) {
    place.append(element("p", { className: "hint" }, "Choose a row to see its operands, its code and what was measured."));
    return;
  }
  place.append(
    element("h2", {}, entry.children ? entry.id || data.title : `${entry.module}`, entry.children ? "" : element("small", {}, ` ${entry.name}`)),
    element(
      "div",
      { className: "cards" },
      data.stages.map((stage, index) => (visible.has(stage.title) ? card(stage, entry.cells[index]) : null)).reverse(),
    ),
  );
  if (!entry.children) {
    addHistograms(place, data, entry, visible);
    const weights = data.weights.find((each) => each.row === entry.row);
    if (weights) {
      const what = weights.integer ? "codes" : "values";
      const chart = section(place, "Weights by output channel", `${weights.channels} channels, ${what} from ${short(-weights.limit)} to ${short(weights.limit)}`);
      drawWeights(chart, weights);
    }
  }
  addMaps(place, data, entry, visible);
}

function card(stage, cell) {
  const head = element("h3", {}, stage.title);
  if (!cell) return element("div", { className: "card absent" }, head, element("p", {}, "nothing of its own: fused, folded or not there"));
  if (cell.states) {
    return element("div", { className: "card" }, head, mixture(cell.states), figures(cell));
  }
  return element(
    "div",
    { className: "card" },
    head,
    element("p", {}, chip(cell.state), ` ${cell.operator}`),
    cell.reason ? element("p", { className: "reason" }, cell.reason) : null,
    figures(cell),
    cell.operands?.length ? operands(cell.operands) : null,
    element("details", {}, element("summary", {}, "code"), element("pre", {}, cell.line), element("p", { className: "source" }, cell.source)),
  );
}

function figures(cell) {
  const known = {
    output: cell.shape,
    kernel: cell.kernel,
    "multiply-accumulates": cell.share && percent(cell.share),
    time: cell.ms && `${short(cell.ms)} ms`,
    SQNR: cell.sqnr && (cell.sqnr === "exact" ? "exact" : `${short(cell.sqnr)} dB`),
    "lost here": cell.drop && `${short(cell.drop)} dB`,
    "after the residual": cell.sum_sqnr && (cell.sum_sqnr === "exact" ? "exact" : `${short(cell.sum_sqnr)} dB`),
    cosine: cell.cosine && cell.cosine.toFixed(5),
    "of the final error": typeof cell.of_error === "number" && percent(cell.of_error),
    "largest error": cell.max_error && short(cell.max_error),
  };
  const rows = Object.entries(known).filter(([, value]) => value);
  return element("dl", {}, rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function operands(found) {
  const head = element("tr", {}, ["operand", "codes", "shape", "scale"].map((name) => element("th", {}, name)));
  const rows = found.map(([name, dtype, shape, granularity, scale]) =>
    element("tr", {}, [name, dtype, shape.join(" x "), [short(scale), granularity].filter(Boolean).join(", ")].map((text) => element("td", {}, text))),
  );
  return element("table", {}, element("tbody", {}, head, rows));
}

// The values are those of the float model: they are drawn once for each grid, and where there is none, once.
function addHistograms(place, data, entry, visible) {
  const found = data.stages.flatMap((stage, index) =>
    visible.has(stage.title)
      ? stage.histograms.filter((each) => each.row === entry.row).map((histogram) => ({ histogram, stage, index }))
      : [],
  );
  for (const operand of new Set(found.map((each) => each.histogram.operand))) {
    const same = found.filter((each) => each.histogram.operand === operand);
    const drawn = same.filter((each) => each.histogram.grid);
    for (const { histogram, stage, index } of drawn.length ? drawn : same.slice(-1)) {
      const name = entry.cells[index].operands?.[operand]?.[0] ?? `operand ${operand + 1}`;
      drawHistogram(section(place, `${name}, ${stage.title}`, describeGrid(histogram)), histogram);
    }
  }
}

function section(place, title, text) {
  const chart = element("div", { className: "chart" });
  place.append(element("h3", {}, title), element("p", { className: "hint" }, text), chart);
  return chart;
}

function addMaps(place, data, entry, visible) {
  if (!data.images) return;
  const module = entry.children ? entry.id : entry.module;
  const attention = data.images.attention.filter((each) => each.module === module && visible.has(each.stage));
  const norms = data.images.norms.filter((each) => each.row === entry.row && visible.has(each.stage));
  addImages(place, data, "Attention to each place", attention);
  addImages(place, data, "Norm of each token", norms);
}

function addImages(place, data, title, maps) {
  if (!maps.length) return;
  const count = maps[0].shape[0];
  const heads = maps[0].shape.length > 2 ? maps[0].shape[1] : 0;
  const image = select("image", Array.from({ length: count }, (_, i) => [i, `image ${i + 1}`]));
  const head = select("head", [[-1, "mean of heads"], ...Array.from({ length: heads }, (_, i) => [i, `head ${i + 1}`])]);
  const places = maps.map(() => element("div", { className: "map" }));
  const show = () => maps.forEach((map, i) => drawMap(places[i], map, data.images.pictures[+image.value], +image.value, +head.value));
  image.onchange = head.onchange = show;
  place.append(
    element("h3", {}, title),
    element("p", {}, image, heads ? head : null),
    element("div", { className: "maps" }, maps.map((map, i) => element("figure", {}, places[i], element("figcaption", {}, `${map.stage}, up to ${short(map.largest)}`)))),
  );
  show();
}

function select(label, options) {
  return element("select", { ariaLabel: label }, options.map(([value, text]) => element("option", { value }, text)));
}
