// Draws the console's charts with uPlot: every [data-chart], on the page or in a piece that comes later.
// The numbers and the words are in the page already; without this script those are read.
"use strict";
(() => {
  const HEIGHT = 150, HOUR = 3600, DAY = 86400;
  const KINDS = { main: "--accent", good: "--completed-solid", bad: "--failed-solid", quiet: "--cancelled-solid", open: "--running-solid", limit: "--warn-solid" };
  const drawn = new Map();

  // A canvas knows no variables: an element that has the colour says what it is in this theme.
  function colour(name, element) {
    element.style.color = `var(${name})`;
    return getComputedStyle(element).color;
  }

  function span(seconds) {
    if (seconds < 1) return Math.round(seconds * 100) / 100 + "s";
    if (seconds < 60) return Math.round(seconds * 10) / 10 + "s";
    if (seconds < HOUR) return Math.floor(seconds / 60) + "m" + (seconds % 60 ? " " + Math.round(seconds % 60) + "s" : "");
    return Math.floor(seconds / HOUR) + "h" + (seconds % HOUR ? " " + Math.round((seconds % HOUR) / 60) + "m" : "");
  }

  function shown(value, unit) {
    if (value == null) return "–";
    if (unit === "s") return span(value);
    if (unit === "ms" && value >= 1000) return span(value / 1000);
    const text = Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Math.round(value * 1e4) / 1e4);
    return unit ? text + " " + unit : text;
  }

  const clock = (seconds, options) => new Date(seconds * 1000).toLocaleString(undefined, options);
  const AXES = {
    step: { of: String, all: (values) => values.map((value) => (Number.isInteger(value) ? String(value) : "")) },
    seconds: { of: span, all: (values) => values.map(span) },
    time: {
      of: (value) => clock(value, { dateStyle: "short", timeStyle: "short" }),
      all: (values) => {
        const long = values.length > 1 && values[values.length - 1] - values[0] > 2 * DAY;
        return values.map((value) => clock(value, long ? { day: "numeric", month: "short" } : { hour: "numeric", minute: "2-digit" }));
      },
    },
  };

  // Marks of a span of seconds fall on whole minutes and hours.
  const SPANS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY];

  function axis(canvas, extra) {
    const line = colour("--line", canvas);
    const { fontSize, fontFamily } = getComputedStyle(canvas);
    return { stroke: colour("--fg-2", canvas), font: fontSize + " " + fontFamily, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, ...extra };
  }

  function series(line, data, canvas) {
    const stroke = colour(KINDS[line.kind] || KINDS.main, canvas);
    const one = { label: line.name, stroke, width: line.kind === "limit" ? 1 : 1.75, value: (_, value) => shown(value, data.unit), spanGaps: false };
    if (line.kind === "limit") return { ...one, dash: [4, 4], points: { show: false } };
    if (data.counts) return { ...one, fill: stroke, width: 0, paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } };
    return { ...one, points: { show: data.x.length < 2 || line.values.filter((value) => value != null).length < 3, size: 5 } };
  }

  // A bar stands around its moment: at the ends of the axis there is room for half of one.
  function along(data) {
    const room = data.counts && data.x.length > 1 ? (data.x[1] - data.x[0]) / 2 : 0;
    return (_, least, most) => (most > least ? [least - room, most + room] : [least - 1, most + 1]);
  }

  // Counts stand on each other: each is drawn up to the sum of itself and those below it.
  function stacked(lines) {
    const sums = [];
    return lines.map((line) => line.values.map((value, at) => (sums[at] = (sums[at] || 0) + (value || 0))));
  }

  // Where nobody points, the legend names the lines and no value.
  function idle(chart) {
    chart.root.classList.toggle("is-idle", chart.cursor.idx == null);
  }

  function draw(figure) {
    const canvas = figure.querySelector(".canvas");
    const data = JSON.parse(figure.dataset.chart);
    const values = data.counts ? stacked(data.lines) : data.lines.map((line) => line.values);
    const kind = AXES[data.axis];
    // What is drawn last lies on top: of stacked counts the lowest.
    const order = data.lines.map((_, at) => at);
    if (data.counts) order.reverse();
    const options = {
      width: Math.max(160, canvas.clientWidth),
      height: HEIGHT,
      legend: { live: true },
      cursor: { y: false, points: { size: 6 } },
      scales: { x: { time: data.axis === "time", range: along(data) }, y: { range: (_, least, most) => [Math.min(0, least), most > least ? most * 1.05 : Math.max(1, most * 1.2)] } },
      axes: [axis(canvas, { size: 28, ...(data.axis === "seconds" && { incrs: SPANS }), values: (_, marks) => kind.all(marks) }), axis(canvas, { size: 60, ...(data.unit === "s" && { incrs: [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...SPANS] }), values: (_, marks) => marks.map((mark) => shown(mark, data.unit)) })],
      series: [
        { label: data.axis === "step" ? "Step" : data.axis === "time" ? "Time" : "After", value: (_, value) => (value == null ? "–" : kind.of(value)) },
        ...order.map((at) => {
          const one = series(data.lines[at], data, canvas);
          return data.counts ? { ...one, value: (_, value, __, index) => shown(index == null ? null : data.lines[at].values[index]) } : one;
        }),
      ],
    };
    canvas.style.color = "";
    canvas.replaceChildren();
    drawn.set(figure, new uPlot({ ...options, hooks: { init: [idle], setLegend: [idle] } }, [data.x, ...order.map((at) => values[at])], canvas));
  }

  function drawAll() {
    for (const figure of [...drawn.keys()]) {
      if (figure.isConnected) continue;
      drawn.get(figure).destroy();
      drawn.delete(figure);
    }
    for (const figure of document.querySelectorAll("[data-chart]")) {
      if (drawn.has(figure)) continue;
      draw(figure);
      sizes.observe(figure.querySelector(".canvas"));
    }
  }

  function again() {
    for (const [figure, chart] of drawn) {
      chart.destroy();
      draw(figure);
    }
  }

  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const chart = drawn.get(target.closest("[data-chart]"));
      const width = Math.max(160, Math.floor(contentRect.width));
      if (chart && width !== chart.width) chart.setSize({ width, height: HEIGHT });
    }
  });

  // At once after the swap, before anything is painted.
  document.addEventListener("htmx:afterSwap", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  drawAll();
})();
