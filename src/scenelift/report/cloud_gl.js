// Points on a canvas: a camera that orbits, and WebGL that draws.

const FOCAL = 1 / Math.tan((40 * Math.PI) / 360); // of a field of view of 40 degrees, upright
const NEAR = 0.01;
const FAR = 20;

// Orbits a target; lengths in units of the cloud's longest side, z up. Points are as `encode_cloud` writes them.
class Camera {
  constructor(cloud, aspect) {
    this.reset(cloud, aspect);
  }
  // To where the whole cloud is seen, on a picture of this width over height.
  reset(cloud, aspect) {
    const middle = [0, 1, 2].map((axis) => (cloud.low[axis] + cloud.high[axis]) / 2);
    const radius = Math.hypot(...[0, 1, 2].map((axis) => cloud.high[axis] - cloud.low[axis])) / 2 || 0.5;
    Object.assign(this, { yaw: cloud.azimuth, pitch: 0.75, distance: (2.6 * radius) / Math.min(1, aspect / 1.25), target: middle });
  }
  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = clamp(this.pitch + pitch, -1.55, 1.55);
  }
  zoom(factor) {
    this.distance = clamp(this.distance / factor, 0.03, 10);
  }
  axes() {
    const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
    return { right: [-sy, cy, 0], up: [-sp * cy, -sp * sy, cp], forward: [-cp * cy, -cp * sy, -sp] };
  }
  // Moves the target along the picture, in shares of the picture's height.
  pan(right, up) {
    const axes = this.axes();
    const size = (2 * this.distance) / FOCAL;
    this.target = this.target.map((at, k) => at + size * (right * axes.right[k] + up * axes.up[k]));
  }
  // Which of the four upright sides of the room stand between the camera and its middle: signs along x and y.
  nearSides() {
    const level = Math.cos(this.pitch);
    return [Math.cos(this.yaw), Math.sin(this.yaw)].map((at) => (Math.abs(at * level) > 0.15 ? Math.sign(at) : 0));
  }
  // Column-major, for WebGL and for `project`.
  matrix(aspect) {
    const { right, up, forward } = this.axes();
    const eye = this.target.map((at, k) => at - this.distance * forward[k]);
    const dot = (axis) => axis[0] * eye[0] + axis[1] * eye[1] + axis[2] * eye[2];
    const depth = (FAR + NEAR) / (FAR - NEAR);
    const rows = [
      [...right.map((v) => (FOCAL / aspect) * v), (-FOCAL / aspect) * dot(right)],
      [...up.map((v) => FOCAL * v), -FOCAL * dot(up)],
      [...forward.map((v) => depth * v), -depth * dot(forward) - (2 * FAR * NEAR) / (FAR - NEAR)],
      [...forward, -dot(forward)],
    ];
    return Float32Array.from({ length: 16 }, (_, k) => rows[k % 4][k >> 2]);
  }
}

// Where a point (units) falls on the picture: x and y in [-1, 1], and its depth, negative behind the camera.
function project(matrix, x, y, z) {
  const [px, py, , depth] = [0, 1, 2, 3].map((k) => matrix[k] * x + matrix[k + 4] * y + matrix[k + 8] * z + matrix[k + 12]);
  return [px / depth, py / depth, depth];
}

const VERTEX = `
attribute vec3 position;
attribute vec4 color;
uniform mat4 matrix;
uniform float size;
varying vec3 shown;
void main() {
  gl_Position = color.a > 0.5 ? matrix * vec4(position, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, 1.5, 40.0);
  shown = color.rgb;
}`;
const FRAGMENT = `
precision mediump float;
varying vec3 shown;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  float far = dot(off, off);
  if (far > 0.25) discard;
  gl_FragColor = vec4(shown * (1.0 - 0.45 * far), 1.0);
}`;

// Draws points on a canvas; null where there is no WebGL.
function pointPainter(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const buffers = { position: gl.createBuffer(), color: gl.createBuffer() };
  function fill(name, array, size, type) {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, array, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, true, 0, 0); // whole numbers become [0, 1]
  }
  return {
    positions: (array) => fill("position", array, 3, gl.UNSIGNED_SHORT),
    colors: (array) => fill("color", array, 4, gl.UNSIGNED_BYTE),
    draw(camera, radius, count) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const matrix = camera.matrix(canvas.width / canvas.height);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "matrix"), false, matrix);
      gl.uniform1f(gl.getUniformLocation(program, "size"), radius * FOCAL * canvas.height);
      gl.drawArrays(gl.POINTS, 0, count);
    },
  };
}
