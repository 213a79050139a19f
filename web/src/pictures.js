// Charts of one row: histograms with their grids, weights by channel, and maps over an image.
import { colour, draw } from "./charts.js";
import { bytesOf } from "./data.js";
import { percent, short } from "./element.js";

/** Draw a histogram of an operand, with the range of its grid and what lies beyond it. */
export function drawHistogram(place, histogram) {
  const { low, high, counts, grid } = histogram;
  const width = (high - low) / counts.length;
  const areas = [];
  const lines = [];
  if (grid) {
    areas.push([{ xAxis: grid.fine ? grid.fine[1] : grid.low, itemStyle: { color: colour("accent") } }, { xAxis: grid.high }]);
    lines.push({ xAxis: grid.high }, { xAxis: grid.fine ? grid.fine[0] : grid.low });
    if (grid.fine) {
      areas.push([{ xAxis: grid.fine[0], itemStyle: { color: colour("token") } }, { xAxis: grid.fine[1] }]);
      lines.push({ xAxis: grid.fine[1] });
    }
  }
  const reach = [low, high, ...(grid ? [grid.low, grid.high, grid.fine?.[0] ?? low] : [])];
  draw(place, {
    grid: { left: 44, right: 12, top: 10, bottom: 22 },
    tooltip: { trigger: "axis", formatter: (points) => `${short(points[0].value[0])}: ${points[0].value[1] - 1} of those drawn` },
    xAxis: { type: "value", min: Math.min(...reach), max: Math.max(...reach), axisLabel: { formatter: (value) => short(value), hideOverlap: true } },
    yAxis: { type: "log", min: 1, axisLabel: { show: false }, splitLine: { show: false } },
    series: [
      {
        type: "line",
        step: "middle",
        symbol: "none",
        color: colour("text"),
        lineStyle: { width: 1 },
        areaStyle: { opacity: 0.35 },
        data: counts.map((count, index) => [low + (index + 0.5) * width, count + 1]),
        markArea: { silent: true, itemStyle: { opacity: 0.16 }, data: areas },
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: colour("accent") }, data: lines },
      },
    ],
  });
}

/** Say in words what the grid of a histogram is. */
export function describeGrid({ grid, clipped, low, high }) {
  const range = `values ${short(low)} to ${short(high)}`;
  if (!grid) return `${range}; no grid is known before it runs`;
  const parts = [range, `step ${short(grid.step)}${grid.scales > 1 ? `, the median of ${grid.scales} scales` : ""}`];
  if (grid.fine) parts.push(`second range ${short(grid.fine[0])} to ${short(grid.fine[1])} in steps of ${short(grid.fine[2])}`);
  if (grid.noise) parts.push(`noise up to ${short(grid.noise)}`);
  parts.push(`${percent(clipped)} clipped`);
  return parts.join("; ");
}

/** Draw the weights of each output channel as shades: channels to the right, values upwards. */
export function drawWeights(place, weights) {
  const [columns, bins] = weights.shape;
  const values = bytesOf(weights.picture);
  const step = (2 * weights.limit) / bins;
  draw(place, {
    grid: { left: 44, right: 12, top: 8, bottom: 22 },
    tooltip: { show: false },
    xAxis: { type: "category", data: Array.from({ length: columns }, (_, i) => Math.round((i * weights.channels) / columns)), axisTick: { show: false } },
    yAxis: {
      type: "category",
      data: Array.from({ length: bins }, (_, i) => short(-weights.limit + (i + 0.5) * step, 2)),
      axisLabel: { interval: Math.floor(bins / 4) - 1 },
      axisTick: { show: false },
    },
    visualMap: { show: false, min: 0, max: 255, inRange: { color: [colour("panel"), colour("accent")] } },
    series: [{ type: "heatmap", silent: true, data: Array.from(values, (value, i) => [Math.floor(i / bins), i % bins, value]) }],
  });
}

/**
 * Draw a map over a picture: a number for each token that has a place in the image.
 *
 * place: a square element. map: of the data; index: of the image; head: of the attention, -1 for the mean of all.
 */
export function drawMap(place, map, picture, index, head) {
  const [rows, columns] = map.grid;
  const tokens = map.shape.at(-1);
  const heads = map.shape.length > 2 ? map.shape[1] : 1;
  const values = bytesOf(map.values);
  const at = (each, token) => values[(index * heads + each) * tokens + map.prefixes + token];
  const shown = Array.from({ length: rows * columns }, (_, token) => {
    if (heads > 1 && head < 0) return Array.from({ length: heads }, (_, each) => at(each, token)).reduce((a, b) => a + b) / heads;
    return at(Math.max(head, 0), token);
  });
  place.style.backgroundImage = picture ? `url(data:image/jpeg;base64,${picture})` : "none";
  const scale = map.largest / 255;
  draw(place, {
    grid: { left: 0, right: 0, top: 0, bottom: 0 },
    tooltip: { formatter: (point) => `row ${point.value[1]}, column ${point.value[0]}: ${short(point.value[2] * scale)}` },
    xAxis: { type: "category", show: false, data: Array.from({ length: columns }, (_, i) => i) },
    yAxis: { type: "category", show: false, inverse: true, data: Array.from({ length: rows }, (_, i) => i) },
    visualMap: { show: false, min: Math.min(...shown), max: Math.max(...shown, 1), inRange: { color: ["#30123b", "#28bceb", "#a4fc3c", "#fb7e21", "#7a0403"] } },
    series: [{ type: "heatmap", itemStyle: { opacity: 0.72 }, data: shown.map((value, i) => [i % columns, Math.floor(i / columns), value]) }],
  });
}
