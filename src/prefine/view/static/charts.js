// Line charts for <figure class="chart" data-chart='JSON'>, without a library.
//
// The JSON: {"title", "x", "y", "series": [{"name", "kind", "dots", "points": [[x, y], …]}],
// "bands": [{"name", "low": [[x, y], …], "high": [[x, y], …]}], "marks": [{"y", "label"}],
// "range": [low, high]}. A y of null, or one that is no finite number, is a gap. Colours are classes
// of charts.css, and positions are attributes of SVG, so no inline style is needed.
//
// With the pointer: hover reads values, dragging zooms, a double click shows all again; the wheel
// zooms with Ctrl, or once the chart has been clicked. With the keyboard: arrows, Home and End read
// values, + and - zoom, 0 or Escape shows all again.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { top: 24, right: 12, bottom: 34, left: 52 };
  const HEIGHT = 240;
  const kept = new Map(); // what the reader has set, by title, for pages that load figures anew
  let charts = 0;

  // --- Small things ------------------------------------------------------------------------------

  function make(name, attributes = {}, text) {
    const svg = ["svg", "g", "path", "line", "rect", "circle", "text", "clipPath"].includes(name);
    const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Three digits, thousands separated, a true minus sign: as in the report.
  function shown(value) {
    const size = Math.abs(value);
    const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3;
    if (size > 0 && size < 0.001) return value.toExponential(1).replace(/-/g, "\u2212");
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return value.toLocaleString("en-US", options).replace("-", "\u2212");
  }

  // About `count` round numbers in [low, high].
  function ticks(low, high, count, whole) {
    const rough = (high - low) / count;
    let step = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-12)));
    step *= [1, 2, 5, 10].find((factor) => (high - low) / (step * factor) <= count) ?? 10;
    if (whole) step = Math.max(1, step);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
      found.push(i * step || 0); // never -0
    }
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  const isValue = (y) => typeof y === "number" && Number.isFinite(y);

  // The exponential moving average, without its bias to the beginning. What lies further away in
  // steps counts less, so that curves with few points are not smoothed more than others.
  function smoothed(points, amount, distance) {
    if (amount === 0) return points;
    let [sum, weight, before] = [0, 0, null];
    return points.map(([x, y]) => {
      if (!isValue(y)) return [x, null];
      const keep = before === null ? 0 : amount ** ((x - before) / distance);
      sum = keep * sum + (1 - amount) * y;
      weight = keep * weight + (1 - amount);
      before = x;
      return [x, sum / weight];
    });
  }

  // --- One chart ---------------------------------------------------------------------------------

  class Chart {
    constructor(figure, data) {
      this.figure = figure;
      this.data = data;
      this.series = data.series.map((one, index) => ({
        ...one,
        kind: one.kind || `series-${index % 8}`,
        points: [...one.points].sort((a, b) => a[0] - b[0]),
        hidden: false,
      }));
      this.bands = data.bands ?? [];
      this.marks = data.marks ?? [];
      const steps = this.series.flatMap((one) => one.points.map((point) => point[0]));
      this.steps = [...new Set(steps)].sort((a, b) => a - b);
      const gaps = this.steps.slice(1).map((step, i) => step - this.steps[i]);
      this.distance = gaps.sort((a, b) => a - b)[Math.floor(gaps.length / 2)] || 1;
      const [first, last] = [this.steps[0] ?? 0, this.steps[this.steps.length - 1] ?? 0];
      this.whole = first === last ? [first - 1, last + 1] : [first, last];
      this.view = this.whole;
      this.amount = 0;
      this.cursor = null; // the step whose values are shown
      this.drag = null; // where dragging began
      this.id = `chart-${(charts += 1)}`;
      this.build();
      this.restore(kept.get(data.title));
      this.listen();
      this.draw();
    }

    build() {
      const { title } = this.data;
      this.controls = make("div", { class: "chart-controls" });
      this.toggles = [];
      if (this.series.length > 1) {
        for (const one of this.series) {
          const button = make("button", {
            type: "button", class: "chart-toggle", "aria-pressed": "true",
          });
          button.append(this.swatch(one), make("span", {}, one.name));
          button.addEventListener("click", () => {
            one.hidden = !one.hidden;
            button.setAttribute("aria-pressed", String(!one.hidden));
            this.draw();
          });
          this.controls.append(button);
          this.toggles.push(button);
        }
      }
      const label = make("label", { class: "chart-smooth" }, "Smoothing ");
      this.slider = make("input", {
        type: "range", min: "0", max: "0.98", step: "0.02", value: "0",
        "aria-label": `Smoothing of: ${title}`,
      });
      label.append(this.slider);
      this.reset = make("button", { type: "button", class: "chart-reset", hidden: "" }, "Show all");
      this.reset.setAttribute("aria-label", `Show all steps of: ${title}`);
      this.controls.append(label, this.reset);
      this.readout = make("p", { class: "chart-readout", "aria-live": "polite" });
      this.pane = make("div", {
        class: "chart-pane", tabindex: "0", role: "application", "aria-roledescription": "chart",
        "aria-label": this.summary(),
      });
      this.svg = make("svg", { height: String(HEIGHT), "aria-hidden": "true" });
      this.pane.append(this.svg);
      this.figure.querySelector(".chart-end")?.setAttribute("hidden", "");
      this.figure.append(this.controls, this.pane, this.readout);
    }

    // As the reader has left the picture that this one replaces.
    restore(before) {
      if (!before) return;
      this.amount = before.amount;
      this.slider.value = String(before.amount);
      if (before.view) this.view = before.view;
      this.reset.hidden = this.view === this.whole;
      this.series.forEach((one, index) => {
        one.hidden = before.hidden.includes(one.name);
        this.toggles[index]?.setAttribute("aria-pressed", String(!one.hidden));
      });
    }

    summary() {
      const ends = this.series.map((one) => {
        const known = one.points.filter((point) => isValue(point[1]));
        const last = known[known.length - 1];
        return last ? `${one.name} ends at ${shown(last[1])}` : `${one.name} has no values`;
      });
      const unit = this.data.y ? ` (${this.data.y})` : "";
      return `${this.data.title}${unit}: ${ends.join(", ")}. Arrow keys read values, plus and ` +
        "minus zoom, 0 shows all.";
    }

    swatch(one) {
      const drawn = make("svg", { class: "chart-swatch", width: "24", height: "10",
        "aria-hidden": "true" });
      drawn.append(make("line", { x1: 0, x2: 24, y1: 5, y2: 5, class: `line ${one.kind}` }));
      return drawn;
    }

    listen() {
      const { pane } = this;
      this.slider.addEventListener("input", () => {
        this.amount = Number(this.slider.value);
        this.draw();
      });
      this.reset.addEventListener("click", () => {
        this.zoom(this.whole);
        pane.focus();
      });
      pane.addEventListener("pointermove", (event) => {
        this.point(this.stepAt(event));
        this.draw(event);
      });
      pane.addEventListener("pointerleave", () => {
        if (this.drag === null) {
          this.point(null);
          this.draw();
        }
      });
      pane.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        this.drag = this.placeOf(event);
        pane.setPointerCapture(event.pointerId);
      });
      pane.addEventListener("pointerup", (event) => {
        const [from, to] = [this.drag, this.placeOf(event)];
        this.drag = null;
        // A click is no zoom.
        if (from !== null && Math.abs(from - to) > 8) {
          this.zoom([this.toStep(Math.min(from, to)), this.toStep(Math.max(from, to))]);
        } else {
          this.draw();
        }
      });
      pane.addEventListener("pointercancel", () => {
        this.drag = null;
        this.draw();
      });
      pane.addEventListener("dblclick", () => this.zoom(this.whole));
      pane.addEventListener("wheel", (event) => {
        // Whoever scrolls the page is not stopped by every chart on the way.
        if (!event.ctrlKey && document.activeElement !== pane) return;
        event.preventDefault();
        this.zoomBy(event.deltaY < 0 ? 0.8 : 1.25, this.toStep(this.placeOf(event)));
      }, { passive: false });
      pane.addEventListener("keydown", (event) => this.key(event));
      pane.addEventListener("blur", () => {
        this.point(null);
        this.draw();
      });
      new ResizeObserver(() => this.draw()).observe(pane);
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const steps = this.steps.filter((step) => step >= this.view[0] && step <= this.view[1]);
      const at = steps.indexOf(this.cursor);
      const far = event.shiftKey ? 10 : 1;
      const last = steps.length - 1;
      const moves = {
        ArrowRight: () => (at < 0 ? 0 : Math.min(last, at + far)),
        ArrowLeft: () => (at < 0 ? last : Math.max(0, at - far)),
        Home: () => 0,
        End: () => last,
      };
      const middle = this.cursor ?? (this.view[0] + this.view[1]) / 2;
      const zooms = {
        "+": () => this.zoomBy(0.7, middle),
        "=": () => this.zoomBy(0.7, middle),
        "-": () => this.zoomBy(1 / 0.7, middle),
        0: () => this.zoom(this.whole),
        Escape: () => this.zoom(this.whole),
      };
      if (moves[event.key] && steps.length) {
        this.point(steps[moves[event.key]()]);
        this.draw();
      } else if (zooms[event.key]) {
        zooms[event.key]();
      } else {
        return;
      }
      event.preventDefault();
      event.stopPropagation(); // keys of the page mean something else
    }

    // --- Zoom and places -------------------------------------------------------------------------

    zoom([low, high]) {
      const [first, last] = this.whole;
      const least = Math.min(this.distance * 2, last - first);
      const width = Math.min(Math.max(high - low, least), last - first);
      const start = Math.min(Math.max((low + high - width) / 2, first), last - width);
      this.view = width < last - first ? [start, start + width] : this.whole;
      this.reset.hidden = this.view === this.whole;
      this.draw();
    }

    zoomBy(factor, around) {
      const [low, high] = this.view;
      this.zoom([around - (around - low) * factor, around + (high - around) * factor]);
    }

    get width() {
      return Math.max(this.pane.clientWidth, 160);
    }

    placeOf(event) {
      const left = event.clientX - this.pane.getBoundingClientRect().left;
      return Math.min(Math.max(left, MARGIN.left), this.width - MARGIN.right);
    }

    toStep(place) {
      const room = this.width - MARGIN.left - MARGIN.right;
      return this.view[0] + ((place - MARGIN.left) / room) * (this.view[1] - this.view[0]);
    }

    stepAt(event) {
      const wanted = this.toStep(this.placeOf(event));
      const near = (best, step) =>
        best === null || Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best;
      return this.steps.filter((s) => s >= this.view[0] && s <= this.view[1]).reduce(near, null);
    }

    // Say the values of all curves at a step; of one that has none there, the last before it.
    point(step) {
      if (step === this.cursor) return;
      this.cursor = step;
      this.readout.replaceChildren();
      if (step === null) return;
      this.readout.append(make("b", {}, `step ${shown(step)}`));
      for (const one of this.series.filter((each) => !each.hidden)) {
        const known = one.drawn.filter((point) => point[0] <= step && isValue(point[1]));
        const last = known[known.length - 1];
        if (!last) continue;
        const where = last[0] === step ? "" : ` (step ${shown(last[0])})`;
        const words = make("span", {}, `${one.name} ${shown(last[1])}${where}`);
        words.prepend(this.swatch(one));
        this.readout.append(" ", words);
      }
    }

    // --- Drawing ---------------------------------------------------------------------------------

    extent() {
      const zoomed = this.view !== this.whole;
      if (this.data.range && !zoomed) return this.data.range;
      const inside = ([x, y]) => isValue(y) && x >= this.view[0] && x <= this.view[1];
      const visible = this.series.filter((one) => !one.hidden);
      const values = [
        ...visible.flatMap((one) => one.drawn.filter(inside)),
        ...this.bands.flatMap((band) => [...band.low, ...band.high].filter(inside)),
      ].map((point) => point[1]);
      if (!zoomed) values.push(...this.marks.map((mark) => mark.y));
      if (!values.length) return [0, 1];
      const low = values.reduce((a, b) => Math.min(a, b));
      const high = values.reduce((a, b) => Math.max(a, b));
      const room = (high - low) * 0.06 || Math.max(Math.abs(low) * 0.1, 0.5);
      return [low - room, high + room];
    }

    draw(event) {
      const { width, svg } = this;
      kept.set(this.data.title, {
        amount: this.amount,
        view: this.view === this.whole ? null : this.view,
        hidden: this.series.filter((one) => one.hidden).map((one) => one.name),
      });
      for (const one of this.series) one.drawn = smoothed(one.points, this.amount, this.distance);
      const [low, high] = this.extent();
      const x = (step) => MARGIN.left +
        ((step - this.view[0]) / (this.view[1] - this.view[0])) *
        (width - MARGIN.left - MARGIN.right);
      const y = (value) => HEIGHT - MARGIN.bottom -
        ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
      svg.setAttribute("width", String(width));
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      const box = { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right,
        height: HEIGHT - MARGIN.top - MARGIN.bottom };
      const clip = make("clipPath", { id: this.id });
      clip.append(make("rect", { ...box, y: 0, height: HEIGHT }));
      const curves = make("g", { "clip-path": `url(#${this.id})` });
      for (const band of this.bands) {
        const outline = [...band.high, ...[...band.low].reverse()].filter((p) => isValue(p[1]));
        const d = outline.map((point) => `${x(point[0])} ${y(point[1])}`).join("L");
        if (d) curves.append(make("path", { d: `M${d}Z`, class: "band" }));
      }
      for (const mark of this.marks) {
        if (mark.y < low || mark.y > high) continue;
        const at = { x1: box.x, x2: box.x + box.width, y1: y(mark.y), y2: y(mark.y) };
        curves.append(make("line", { ...at, class: mark.label ? "mark" : "mark plain" }));
        const place = { x: box.x + box.width - 4, y: y(mark.y) - 5, class: "mark-label" };
        if (mark.label) curves.append(make("text", place, mark.label));
      }
      for (const one of this.series.filter((each) => !each.hidden)) {
        const faint = this.amount > 0;
        if (faint) curves.append(this.curve(one, one.points, x, y, " raw"));
        curves.append(this.curve(one, one.drawn, x, y, ""));
        const dots = one.dots ? one.drawn : one.drawn.filter((p) => p[0] === this.cursor);
        for (const [step, value] of dots) {
          if (!isValue(value)) continue;
          const r = step === this.cursor ? 4.5 : 3;
          curves.append(make("circle", { cx: x(step), cy: y(value), r, class: `dot ${one.kind}` }));
        }
      }
      svg.replaceChildren(clip, this.axes(x, y, [low, high], box), curves);
      if (this.cursor !== null) {
        const at = { x1: x(this.cursor), x2: x(this.cursor), y1: box.y, y2: box.y + box.height };
        svg.append(make("line", { ...at, class: "cursor" }));
      }
      if (this.drag !== null && event) {
        const [from, to] = [this.drag, this.placeOf(event)];
        const wide = { x: Math.min(from, to), width: Math.abs(from - to) };
        svg.append(make("rect", { ...box, ...wide, class: "chosen-part" }));
      }
    }

    curve(one, points, x, y, more) {
      let d = "";
      let pen = "M";
      for (const [step, value] of points) {
        if (isValue(value)) d += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = isValue(value) ? "L" : "M";
      }
      return make("path", { d, class: `line ${one.kind}${more}` });
    }

    axes(x, y, [low, high], box) {
      const drawn = make("g");
      const rows = ticks(low, high, 5, false);
      for (const value of rows.values) {
        const at = { x1: box.x, x2: box.x + box.width, y1: y(value), y2: y(value) };
        drawn.append(make("line", { ...at, class: Math.abs(value) < 1e-12 ? "zero" : "grid" }));
        const words = value.toLocaleString("en-US", { minimumFractionDigits: rows.digits,
          maximumFractionDigits: rows.digits }).replace("-", "\u2212");
        drawn.append(make("text", { x: box.x - 7, y: y(value) + 4, class: "tick end" }, words));
      }
      const count = Math.max(2, Math.floor(box.width / 90));
      const foot = box.y + box.height;
      for (const step of ticks(this.view[0], this.view[1], count, true).values) {
        drawn.append(make("text", { x: x(step), y: foot + 16, class: "tick middle" },
          step.toLocaleString("en-US")));
      }
      const right = { x: box.x + box.width, y: foot + 31, class: "axis end" };
      drawn.append(make("text", right, this.data.x ?? ""));
      drawn.append(make("text", { x: 0, y: 11, class: "axis" }, this.data.y ?? ""));
      return drawn;
    }
  }

  // --- All charts of a page ------------------------------------------------------------------------

  // Make pictures of all figures below `root` that are none yet, also of those that came later.
  function enhance(root = document) {
    for (const figure of root.querySelectorAll("figure.chart[data-chart]:not(.drawn)")) {
      figure.classList.add("drawn");
      new Chart(figure, JSON.parse(figure.dataset.chart));
    }
  }

  window.prefineCharts = { enhance };
  document.addEventListener("prefine:replaced", () => enhance());
  enhance();
})();
