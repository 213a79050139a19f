// Charts, drawn by ECharts in the colours of the page.
import { BarChart, HeatmapChart, LineChart } from "echarts/charts";
import {
  GridComponent,
  LegendComponent,
  MarkAreaComponent,
  MarkLineComponent,
  TooltipComponent,
  VisualMapComponent,
} from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";

echarts.use([
  BarChart,
  CanvasRenderer,
  GridComponent,
  HeatmapChart,
  LegendComponent,
  LineChart,
  MarkAreaComponent,
  MarkLineComponent,
  TooltipComponent,
  VisualMapComponent,
]);

const drawn = new Map(); // element -> chart
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => drawn.get(entry.target)?.resize()));

/** Return the text as HTML that shows it. */
export const escaped = echarts.format.encodeHTML;

/** Return the value of a colour of the style sheet. */
export const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();

/** Draw a chart with ECharts' `option` into `place`, in place of the one before. */
export function draw(place, option) {
  let chart = drawn.get(place);
  if (!chart) {
    chart = echarts.init(place);
    drawn.set(place, chart);
    sizes.observe(place);
  }
  const text = { color: colour("muted"), fontSize: 11 };
  const axis = {
    axisLabel: text,
    nameTextStyle: text,
    splitLine: { lineStyle: { color: colour("line") } },
    axisLine: { lineStyle: { color: colour("line") } },
  };
  const axes = (given) => given && [given].flat().map((each) => ({ ...axis, ...each }));
  chart.setOption(
    {
      animation: false,
      textStyle: { color: colour("text"), fontFamily: "inherit" },
      ...option,
      tooltip: {
        confine: true,
        backgroundColor: colour("panel"),
        borderColor: colour("line"),
        textStyle: { color: colour("text"), fontSize: 12 },
        ...option.tooltip,
      },
      xAxis: axes(option.xAxis),
      yAxis: axes(option.yAxis),
    },
    true,
  );
  return chart;
}

/** Forget the charts of elements that are no longer on the page. */
export function forget() {
  for (const [place, chart] of drawn) {
    if (!place.isConnected) {
      sizes.unobserve(place);
      chart.dispose();
      drawn.delete(place);
    }
  }
}
