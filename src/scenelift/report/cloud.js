// The viewer of point clouds: what is shown of them, and how they are turned.

const NONE = 255; // no label
const NONE_COLOR = [64, 64, 64];
const [RIGHT_COLOR, WRONG_COLOR, UNKNOWN_COLOR] = [[86, 180, 233], [213, 94, 0], [150, 150, 150]];
const SURE = [[0, 34, 78], [67, 78, 108], [125, 124, 120], [188, 174, 108], [254, 232, 56]]; // after cividis
const LOW_WALL = 0.1; // of a wall that is cut away this much of the height stays
const WALL = 0.04; // the outer share of the room that is wall
const CEILING = 0.9; // what is above is ceiling

function decodeCloud(tree) {
  const bytes = (text) => (text === null ? null : bytesOf(text));
  const cloud = { ...tree, positions: new Uint16Array(bytesOf(tree.positions).buffer) };
  cloud.rgb = bytes(tree.rgb);
  cloud.truth = bytes(tree.truth);
  cloud.confidence = bytes(tree.confidence);
  cloud.labels = tree.labels.map(({ name, data }) => ({ name, data: bytesOf(data) }));
  cloud.own = cloud.labels[cloud.labels.length - 1];
  cloud.light = lightOf(cloud);
  return cloud;
}

// How bright each point is against the brightest, so that shapes can be seen under one colour.
function lightOf({ rgb, count }) {
  const light = new Float32Array(count).fill(1);
  if (!rgb) return light;
  for (let i = 0; i < count; i++) light[i] = 0.3 * rgb[3 * i] + 0.6 * rgb[3 * i + 1] + 0.1 * rgb[3 * i + 2];
  const bright = Float32Array.from(light).sort()[Math.floor(0.95 * (count - 1))] || 1;
  return light.map((value) => 0.8 + 0.2 * Math.min(1, value / bright));
}

// What can be shown of a cloud: a name, a colour for point i, and the labels by which classes are hidden.
function layersOf(cloud, colors) {
  const byLabel = (labels) => (i) => (labels[i] === NONE ? NONE_COLOR : colors[labels[i]]);
  const layers = [];
  const own = cloud.own.data;
  if (cloud.rgb)
    layers.push({ name: "colour", labels: own, plain: true, color: (i) => cloud.rgb.subarray(3 * i, 3 * i + 3) });
  for (const { name, data } of cloud.labels) layers.push({ name, labels: data, color: byLabel(data) });
  if (cloud.truth) {
    layers.push({ name: "ground truth", labels: cloud.truth, color: byLabel(cloud.truth) });
    for (const { name, data } of cloud.labels.slice(-cloud.runs)) {
      const verdict = (i) =>
        cloud.truth[i] === NONE ? UNKNOWN_COLOR : cloud.truth[i] === data[i] ? RIGHT_COLOR : WRONG_COLOR;
      layers.push({ name: cloud.runs > 1 ? `errors of ${name}` : "error", labels: data, color: verdict, key: "error" });
    }
  }
  if (cloud.confidence) {
    const sure = (i) => {
      const at = (cloud.confidence[i] / 255) * (SURE.length - 1);
      const [k, rest] = [Math.min(Math.floor(at), SURE.length - 2), at % 1 || (at === SURE.length - 1 ? 1 : 0)];
      return SURE[k].map((low, c) => low + rest * (SURE[k + 1][c] - low));
    };
    layers.push({ name: "confidence", labels: own, color: sure, key: "confidence" });
  }
  return layers;
}

function cssColor(color) {
  return `rgb(${color.map(Math.round).join(" ")})`;
}

function keyOf(kind) {
  const item = (color, words) => make("li", {}, make("span", { class: "swatch", style: `background:${cssColor(color)}` }), words);
  if (kind === "error")
    return make("ul", { class: "legend" }, item(RIGHT_COLOR, "right"), item(WRONG_COLOR, "wrong"), item(UNKNOWN_COLOR, "truth unknown"));
  const bar = make("span", { class: "ramp", style: `background:linear-gradient(90deg, ${SURE.map(cssColor).join(",")})` });
  return make("p", { class: "small" }, "0 % ", bar, " 100 %");
}

class CloudViewer {
  constructor(place, classes) {
    this.names = classes.names;
    this.scenes = classes.scenes;
    this.colors = classes.colors.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    this.hidden = new Set();
    this.layer = "";
    this.cut = true;
    this.shade = true;
    this.canvas = make("canvas", { tabindex: "0", role: "application", "aria-label": "Point cloud. Arrow keys turn it, with Shift they move it; plus and minus zoom, 0 shows all, Enter tells of the point in the middle." });
    this.painter = pointPainter(this.canvas);
    if (!this.painter) return;
    this.told = make("output", { class: "told", "aria-live": "polite" });
    this.controls = make("div", { class: "cloud-controls" });
    place.replaceChildren(make("div", { class: "cloud-view" }, this.canvas, this.told), this.controls);
    this.listen();
    this.open(0);
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  open(number) {
    this.number = number;
    this.cloud = decodeCloud(dataOf(`cloud-${number}`));
    this.layers = layersOf(this.cloud, this.colors);
    if (!this.layers.some(({ name }) => name === this.layer)) this.layer = this.cloud.own.name;
    this.camera = new Camera(this.cloud, this.aspect);
    this.painter.positions(this.cloud.positions);
    this.buildControls();
    this.tellWhat();
    this.paint();
  }

  tellWhat() {
    const { name, count, of, metres } = this.cloud;
    const some = count < of ? `${count.toLocaleString("en")} of ${of.toLocaleString("en")}` : count.toLocaleString("en");
    this.told.textContent = `${name}: ${some} points, ${metres.toFixed(metres < 10 ? 1 : 0)} m along its longest side. Click a point to read it.`;
  }

  get aspect() {
    return this.canvas.clientWidth / this.canvas.clientHeight;
  }

  get shown() {
    return this.layers.find(({ name }) => name === this.layer);
  }

  // Is point i cut away, as ceiling or as a wall before the camera?
  isCut(i, sides) {
    const { positions, low, high } = this.cloud;
    const [x, y, z] = [0, 1, 2].map((k) => (positions[3 * i + k] / 65535 - low[k]) / Math.max(high[k] - low[k], 1e-6));
    if (z > CEILING) return true;
    const near = (at, side) => (side > 0 ? at > 1 - WALL : side < 0 && at < WALL);
    return z > LOW_WALL && (near(x, sides[0]) || near(y, sides[1]));
  }

  paint() {
    const { count, light } = this.cloud;
    const { color, labels, plain, key } = this.shown;
    const sides = this.camera.nearSides();
    this.sides = sides.join();
    const bytes = new Uint8Array(4 * count);
    for (let i = 0; i < count; i++) {
      if (this.hidden.has(labels[i]) || (this.cut && this.isCut(i, sides))) continue;
      const [rgb, dark] = [color(i), plain || key || !this.shade ? 1 : light[i]];
      bytes.set([dark * rgb[0], dark * rgb[1], dark * rgb[2], 255], 4 * i);
    }
    this.bytes = bytes;
    this.painter.colors(bytes);
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.cut && this.camera.nearSides().join() !== this.sides) this.paint();
      const sharp = Math.min(devicePixelRatio, 2);
      const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((n) => Math.round(n * sharp));
      if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
      this.painter.draw(this.camera, this.cloud.radius, this.cloud.count);
    });
  }

  // Tells of the drawn point that is nearest to a place on the canvas, in CSS pixels.
  tellOf(x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const matrix = this.camera.matrix(this.aspect);
    const { positions, count } = this.cloud;
    let [best, nearest] = [-1, Infinity];
    for (let i = 0; i < count; i++) {
      if (!this.bytes[4 * i + 3]) continue;
      const [px, py, depth] = project(matrix, ...[0, 1, 2].map((k) => positions[3 * i + k] / 65535));
      const off = Math.hypot(((px + 1) / 2) * width - x, ((1 - py) / 2) * height - y);
      if (depth > NEAR && off < 14 && depth + off / 100 < nearest) [best, nearest] = [i, depth + off / 100];
    }
    if (best < 0) return;
    const named = (labels) => (labels[best] === NONE ? "no label" : this.names[labels[best]]);
    const words = this.cloud.labels.map(({ name, data }) => `${name}: ${named(data)}`);
    if (this.cloud.truth) words.push(`ground truth: ${named(this.cloud.truth)}`);
    if (this.cloud.confidence) words.push(`confidence: ${((100 * this.cloud.confidence[best]) / 255).toFixed(0)} %`);
    this.told.textContent = words.join("; ");
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let moved = 0;
    const act = (change) => {
      change();
      this.redraw();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const old = fingers.get(event.pointerId);
      if (!old) return;
      const now = [event.clientX, event.clientY];
      const [dx, dy] = [now[0] - old[0], now[1] - old[1]];
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      fingers.set(event.pointerId, now);
      moved += Math.abs(dx) + Math.abs(dy);
      const height = canvas.clientHeight;
      act(() => {
        if (other) {
          const apart = (from) => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
          this.camera.zoom(apart(now) / apart(old));
          this.camera.pan(-dx / (2 * height), dy / (2 * height));
        } else if (event.shiftKey || event.buttons & 6) this.camera.pan(-dx / height, dy / height);
        else this.camera.turn((-4 * dx) / height, (4 * dy) / height);
      });
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => {
        fingers.delete(event.pointerId);
        if (end === "pointerup" && moved < 4) this.tellOf(event.offsetX, event.offsetY);
      });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // or the page could not be scrolled past it
      act(() => this.camera.zoom(Math.exp(-event.deltaY / 500)));
      event.preventDefault();
    }, { passive: false });
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    canvas.addEventListener("keydown", (event) => {
      const way = arrows[event.key];
      const zoom = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 }[event.key];
      if (way) act(() => (event.shiftKey ? this.camera.pan(0.05 * way[0], 0.05 * way[1]) : this.camera.turn(0.12 * way[0], 0.08 * way[1])));
      else if (zoom) act(() => this.camera.zoom(zoom));
      else if (event.key === "0") act(() => this.camera.reset(this.cloud, this.aspect));
      else if (event.key === "Enter") this.tellOf(canvas.clientWidth / 2, canvas.clientHeight / 2);
      else return;
      event.preventDefault();
    });
  }

  buildControls() {
    const tick = (words, checked, change, swatch = null) =>
      make("label", {}, make("input", { type: "checkbox", checked, onchange: (event) => change(event.target.checked) }),
        ...(swatch ? [make("span", { class: "swatch", style: `background:${cssColor(swatch)}` })] : []), words);
    const layer = ({ name }) =>
      make("label", {}, make("input", { type: "radio", name: "cloud-layer", checked: name === this.layer, onchange: () => this.showLayer(name) }), name);
    const present = new Set();
    for (const labels of [...this.cloud.labels.map(({ data }) => data), this.cloud.truth || []]) labels.forEach((k) => present.add(k));
    const classes = [...present].sort((a, b) => a - b);
    const ticks = classes.map((k) =>
      tick(k === NONE ? "no label" : this.names[k], !this.hidden.has(k), (on) => this.showClasses([k], on), k === NONE ? NONE_COLOR : this.colors[k]));
    const all = (words, on) =>
      make("button", { type: "button", onclick: () => {
        this.showClasses(classes, on);
        ticks.forEach((label) => (label.firstChild.checked = on));
      } }, words);
    this.key = make("div", { class: "cloud-key" });
    this.controls.replaceChildren(
      ...(this.scenes.length > 1 ? [chooser("Scene", this.scenes, this.number, (number) => this.open(number))] : []),
      make("fieldset", {}, make("legend", {}, "Show"), ...this.layers.map(layer)),
      this.key,
      make("fieldset", { class: "cloud-classes" }, make("legend", {}, "Classes"), make("div", {}, all("all", true), all("none", false)), ...ticks),
      make("fieldset", {}, make("legend", {}, "View"),
        tick("cut near walls and ceiling away", this.cut, (on) => {
          this.cut = on;
          this.paint();
        }),
        tick("brightness of the scene under labels", this.shade, (on) => {
          this.shade = on;
          this.paint();
        }),
        make("button", { type: "button", onclick: () => {
          this.camera.reset(this.cloud, this.aspect);
          this.redraw();
        } }, "whole scene")));
    this.showKey();
  }

  showKey() {
    const { key } = this.shown;
    this.key.replaceChildren(...(key ? [keyOf(key)] : []));
  }

  showLayer(name) {
    this.layer = name;
    this.showKey();
    this.paint();
  }

  showClasses(classes, on) {
    for (const k of classes) on ? this.hidden.delete(k) : this.hidden.add(k);
    this.paint();
  }
}

function startClouds() {
  const place = document.querySelector(".cloud");
  if (place) new CloudViewer(place, dataOf("cloud-classes"));
}

startClouds();
