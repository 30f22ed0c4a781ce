/* The little of WebGL2 that the viewer needs: programs, uniforms by name, vertex arrays, textures, 4x4 matrices. */

/* Compile and link; throws what the driver says about either shader. */
function createProgram(gl, [vertexSource, fragmentSource]) {
  const handle = gl.createProgram();
  const compile = (type, source) => {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
    return shader;
  };
  const shaders = [compile(gl.VERTEX_SHADER, vertexSource), compile(gl.FRAGMENT_SHADER, fragmentSource)];
  gl.linkProgram(handle);
  if (!gl.getProgramParameter(handle, gl.LINK_STATUS)) {
    const logs = [gl.getProgramInfoLog(handle), ...shaders.map((shader) => gl.getShaderInfoLog(shader))];
    const [link, vertex, fragment] = logs.map((log) => (log || "no message").trim());
    throw new Error(`Shaders do not link: ${link}; vertex shader: ${vertex}; fragment shader: ${fragment}`);
  }
  shaders.forEach((shader) => gl.deleteShader(shader)); // the program holds what it needs of them
  return { handle, setters: uniformSetters(gl, handle) };
}

/* One function per uniform of the program, which must be in use when they are called: name -> (value) => ... */
function uniformSetters(gl, handle) {
  const setters = {};
  let textures = 0; // each sampler keeps a texture unit of its own
  for (let i = 0; i < gl.getProgramParameter(handle, gl.ACTIVE_UNIFORMS); i++) {
    const { name, type } = gl.getActiveUniform(handle, i);
    const at = gl.getUniformLocation(handle, name);
    const unit = type === gl.SAMPLER_2D ? textures++ : -1;
    setters[name] = {
      [gl.FLOAT]: (value) => gl.uniform1f(at, value),
      [gl.FLOAT_VEC2]: (value) => gl.uniform2fv(at, value),
      [gl.FLOAT_VEC3]: (value) => gl.uniform3fv(at, value),
      [gl.FLOAT_MAT4]: (value) => gl.uniformMatrix4fv(at, false, value),
      [gl.INT]: (value) => gl.uniform1i(at, value),
      [gl.SAMPLER_2D]: (texture) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, texture);
        gl.uniform1i(at, unit);
      },
    }[type];
    if (!setters[name]) throw new Error(`Uniform ${name} has a type that gl.js cannot set`);
  }
  return setters;
}

/* Values by name, for the program in use; names that it does not have are left alone. */
function setUniforms(program, values) {
  for (const [name, value] of Object.entries(values)) program.setters[name]?.(value);
}

/* Attributes {name: {size, data, normalized}}: `size` numbers per vertex from a Float32Array, or from a Uint8Array
 * whose bytes the shader sees as 0..255, or as 0..1 if `normalized`. */
function createVertexArray(gl, program, attributes) {
  const handle = gl.createVertexArray();
  gl.bindVertexArray(handle);
  let count = Infinity;
  for (const [name, { size, data, normalized = false }] of Object.entries(attributes)) {
    const at = gl.getAttribLocation(program.handle, name);
    if (at < 0) throw new Error(`The vertex shader does not use ${name}`);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, data instanceof Uint8Array ? gl.UNSIGNED_BYTE : gl.FLOAT, normalized, 0, 0);
    count = Math.min(count, data.length / size);
  }
  gl.bindVertexArray(null);
  return { handle, count };
}

/* The first `count` vertices as `mode`: gl.POINTS, or gl.LINES, where each two vertices are one line. */
function drawVertices(gl, vertices, mode, count = vertices.count) {
  gl.bindVertexArray(vertices.handle);
  gl.drawArrays(mode, 0, count);
  gl.bindVertexArray(null);
}

/* The bound texture is neither filtered nor repeated. */
function plainTexture(gl) {
  const look = { MIN_FILTER: gl.NEAREST, MAG_FILTER: gl.NEAREST, WRAP_S: gl.CLAMP_TO_EDGE, WRAP_T: gl.CLAMP_TO_EDGE };
  for (const [name, value] of Object.entries(look)) gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${name}`], value);
}

/* A texture of bytes, three (RGB) or four (RGBA) per texel, rows without gaps. */
function createTexture(gl, width, height, bytes) {
  const texture = gl.createTexture();
  const [stored, given] = bytes.length === 3 * width * height ? [gl.RGB8, gl.RGB] : [gl.RGBA8, gl.RGBA];
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1); // rows of RGB need not be multiples of four bytes
  gl.texImage2D(gl.TEXTURE_2D, 0, stored, width, height, 0, given, gl.UNSIGNED_BYTE, bytes);
  plainTexture(gl);
  return texture;
}

/* A picture to draw into whose colour and depth can be read as textures afterwards. */
function createTarget(gl, width, height) {
  const target = { framebuffer: gl.createFramebuffer(), width, height };
  const texture = (stored, given, type, attachment) => {
    const handle = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, handle);
    gl.texImage2D(gl.TEXTURE_2D, 0, stored, width, height, 0, given, type, null);
    plainTexture(gl);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, attachment, gl.TEXTURE_2D, handle, 0);
    return handle;
  };
  gl.bindFramebuffer(gl.FRAMEBUFFER, target.framebuffer);
  target.colour = texture(gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, gl.COLOR_ATTACHMENT0);
  target.depth = texture(gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, gl.DEPTH_ATTACHMENT);
  return target;
}

function deleteTarget(gl, target) {
  gl.deleteFramebuffer(target.framebuffer);
  gl.deleteTexture(target.colour);
  gl.deleteTexture(target.depth);
}

/* 4x4 matrices as WebGL reads them: 16 numbers, column after column. Cameras look along -z, y up. */
const mat4 = {
  /* Clip space from camera; the field of view is vertical, in radians. */
  perspective(fieldOfView, aspect, near, far) {
    const f = 1 / Math.tan(fieldOfView / 2);
    const depth = near - far;
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (near + far) / depth, -1, 0, 0, (2 * near * far) / depth, 0];
  },

  /* World from camera, for a camera at `eye` that sees `target` in its middle. */
  lookAt(eye, target, up) {
    const unit = (v) => v.map((x) => x / Math.hypot(...v));
    const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
    const z = unit(eye.map((x, k) => x - target[k]));
    const x = unit(cross(up, z));
    return [...x, 0, ...cross(z, x), 0, ...z, 0, ...eye, 1];
  },

  multiply(a, b) {
    const entry = (row, column) => [0, 1, 2, 3].reduce((sum, k) => sum + a[4 * k + row] * b[4 * column + k], 0);
    return Array.from({ length: 16 }, (_, i) => entry(i % 4, Math.floor(i / 4)));
  },

  /* Of a rotation and a translation only: the rotation transposed, the translation undone. */
  inverseRigid(m) {
    const back = [0, 4, 8].map((c) => -(m[c] * m[12] + m[c + 1] * m[13] + m[c + 2] * m[14]));
    return [m[0], m[4], m[8], 0, m[1], m[5], m[9], 0, m[2], m[6], m[10], 0, ...back, 1];
  },
};
