// How far the nodes of each measured graph are from the float one, in the order in which they run.
import { colour, draw, escaped } from "./charts.js";
import { decibels, isProduct } from "./data.js";
import { short } from "./element.js";

const MEASURES = { sqnr: "SQNR in dB", cosine: "cosine", drop: "dB of SQNR lost here" };

/** Draw `measure` through the depth of the model into `place`; a click calls `choose` with the leaf. */
export function drawDepth(place, data, leaves, measure, chosen, choose) {
  const found = leaves.filter((leaf) => leaf.cells.some((cell) => cell && cell[measure] !== null && cell[measure] !== undefined));
  const shown = found.filter(isProduct).length > 3 ? found.filter(isProduct) : found;
  const stages = data.stages.map((stage, index) => ({ ...stage, index })).filter((stage) => stage.cells.sqnr);
  const position = shown.indexOf(chosen);
  const chart = draw(place, {
    grid: { left: 44, right: 12, top: 26, bottom: 20 },
    legend: { right: 8, top: 0, itemHeight: 8, textStyle: { color: colour("muted") } },
    tooltip: {
      trigger: "axis",
      formatter: (points) =>
        [escaped(shown[points[0].dataIndex].id), ...points.map((p) => `${escaped(p.seriesName)}: ${short(p.value[1], 4)}`)].join("<br>"),
    },
    xAxis: { type: "value", min: 0, max: Math.max(shown.length - 1, 1), axisLabel: { show: false }, splitLine: { show: false } },
    yAxis: { type: "value", name: MEASURES[measure], scale: true, nameLocation: "end", nameGap: 8 },
    series: stages.map((stage, order) => ({
      type: "line",
      name: stage.title,
      symbolSize: 6,
      color: colour(["accent", "token", "float"][order % 3]),
      data: shown.map((leaf, x) => {
        const value = decibels(leaf.cells[stage.index]?.[measure] ?? null);
        return [x, Number.isFinite(value) ? value : null];
      }),
      markLine:
        order || position < 0
          ? undefined
          : { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: colour("muted") }, data: [{ xAxis: position }] },
    })),
  });
  chart.off("click");
  chart.on("click", (point) => choose(shown[point.dataIndex]));
}
