// Runs cells of JavaScript and TypeScript in the user's Node.js, for `node_kernels.py`.
//
//     node --expose-internals node_kernel.cjs REPORTS ORDERS
//
// It has two threads. The main one is the user's: V8's own REPL mode evaluates the cells, so that `await` works in them
// and names can be declared again. The other one takes the runtime's orders, also while a cell never gives way. REPORTS
// and ORDERS are descriptors; a message is JSON after its length, four bytes. A report is written at once and whole:
// printing waits for its reader, and what was printed is told before what follows. What was printed is not JSON: its
// stream's number, and the text.
//
// Node's internals are exposed for its parser: V8 offers no `import` to what is evaluated in this way.
"use strict";

const { writeSync } = require("node:fs");
const threads = require("node:worker_threads");

const LENGTH = Buffer.alloc(4);
const MAX_JSON_LEVELS = 100;
const MAX_JSON_PARTS = 1_000_000; // One that is met on two ways counts twice, and is written twice.
const MAX_SHOWN_BYTES = 10 * 1024 * 1024; // Of all that one event shows; what is more is left out.
const MAX_EXCEPTION_CHARS = 256 * 1024; // Each of an exception's texts: the first half and the last.
const MAX_ID_CHARS = 200;
const PRINTED_BYTES = 32 * 1024; // One report of output.
const PRINTED_AS = { stdout: 1, stderr: 2 }; // The first byte of such a report.
const YIELD_MS = 50; // In which a cell that waits for something sees an interrupt by itself.

// In the memory that both threads share:
const INTERRUPTED = 0; // An interrupt was not seen yet.
const ANSWERED = 1; // Who waits for input need not wait any longer.

const IMPORT = "__import";

function main(reports, orders) {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const { port1: answers, port2: answering } = new threads.MessageChannel();
  answers.unref();
  const kernel = new Kernel(reports, words, answers);
  process.execArgv.length = 0; // For the user's own forks.
  process.argv.length = 1;
  const workerData = { orders, words, answering };
  const worker = new threads.Worker(__filename, { workerData, transferList: [answering] });
  worker.on("message", (order) => kernel.obey(order));
}

class Kernel {
  #reports;
  #words;
  #answers;
  #evaluate;
  #language;
  #running = new (require("node:async_hooks").AsyncLocalStorage)(); // The cell by which what runs was started.
  #cell = null; // The one that has not ended.
  #count = 0;

  constructor(reports, words, answers) {
    this.#reports = reports;
    this.#words = words;
    this.#answers = answers;
    this.#evaluate = evaluator();
    this.#redirect("stdout");
    this.#redirect("stderr");
    // Node's own methods tell the debugger of each line, too, which takes five times as long.
    Object.assign(console, new console.Console(process.stdout, process.stderr));
    process.on("uncaughtException", (error) => this.#print("stderr", `Uncaught ${describe(error).traceback}\n`));
    define("display", (value, options = {}) => this.#display(value, options));
    define("prompt", (text = "") => this.#ask(text));
  }

  obey(order) {
    if (order.type === "execute") {
      this.#run(order);
    } else if (order.type === "enter") {
      this.report(this.#enter(order));
    } else if (order.type === "rehearse") {
      quietly(() => require("node:module").stripTypeScriptTypes?.("0", { mode: "transform" })); // The first takes 50 ms.
      this.report({ type: "ready" });
    } else if (order.type === "ready") {
      this.report(order);
    } else {
      Atomics.store(this.#words, INTERRUPTED, 0);
      this.#interrupt(this.#cell);
    }
  }

  #enter({ language, cwd }) {
    try {
      this.#language = language;
      process.chdir(cwd);
      process.env.PWD = cwd;
      if (language === "typescript" && !require("node:module").stripTypeScriptTypes) throw new Missing();
      return { type: "ready" };
    } catch (error) {
      return { type: "exception", timestamp: "", ...describe(error) };
    }
  }

  // Where the interrupt met our own work for the cell, as a getter of the user's that it shows, nobody else ends it.
  #interrupt(cell) {
    cell?.interrupt();
    setImmediate(() => this.#end(cell, new Interrupted()));
  }

  report(message) {
    this.#send(Buffer.from(wellFormed(JSON.stringify(message))));
  }

  #send(...parts) {
    const body = Buffer.concat([LENGTH, ...parts]);
    body.writeUInt32BE(body.length - LENGTH.length);
    for (let sent = 0; sent < body.length; ) sent += writeSync(this.#reports, body, sent);
  }

  async #run({ code, allow_input: allowsInput, ansi: colors, variables, cell_variables: ofCell }) {
    this.#count += 1;
    setVariables(variables);
    const before = Object.fromEntries(Object.keys(ofCell).map((name) => [name, process.env[name] ?? null]));
    setVariables(ofCell);
    const cell = { allowsInput, colors, before };
    const interrupted = new Promise((_, reject) => (cell.interrupt = () => reject(new Interrupted())));
    interrupted.catch(() => {});
    this.#cell = cell;
    this.report({ type: "cell_started" });
    try {
      const name = `cell-${this.#count}`;
      const evaluated = this.#running.run(cell, () => this.#evaluate(code, name, this.#language));
      const value = await Promise.race([evaluated, interrupted]);
      if (value !== undefined) this.#show(bundleOf(value), { isMain: true });
      this.#end(cell);
    } catch (error) {
      this.#end(cell, error);
    }
  }

  #end(cell, ...errors) {
    if (cell === null || cell !== this.#cell) return;
    setVariables(cell.before);
    for (const error of errors) this.report({ type: "exception", timestamp: "", ...describe(error, cell) });
    this.#cell = null;
    this.report({ type: "cell_ended", failed: errors.length > 0, execution_count: this.#count, quits: false });
  }

  // What a cell says after its end belongs to nobody.
  #isHeard() {
    return this.#cell !== null && (this.#running.getStore() ?? this.#cell) === this.#cell;
  }

  #print(stream, text) {
    if (!this.#isHeard()) return;
    const kind = Buffer.of(PRINTED_AS[stream]);
    const bytes = Buffer.from(text);
    for (let start = 0; start < bytes.length; start += PRINTED_BYTES) {
      this.#send(kind, bytes.subarray(start, start + PRINTED_BYTES));
    }
  }

  #redirect(stream) {
    const decoder = new (require("node:string_decoder").StringDecoder)("utf8");
    process[stream].write = (chunk, encoding, callback) => {
      const bytes = typeof chunk === "string" ? null : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      this.#print(stream, bytes === null ? chunk : decoder.write(bytes));
      const done = typeof encoding === "function" ? encoding : callback;
      if (done) process.nextTick(done);
      return true;
    };
  }

  #display(value, options) {
    if (this.#isHeard()) this.#show(options.raw ? value : bundleOf(value), options);
  }

  // Nothing else of the user's runs until the answer is there, as in a browser.
  #ask(text) {
    if (!this.#isHeard() || !this.#cell.allowsInput) throw new Error("prompt: nobody is there to answer");
    while (threads.receiveMessageOnPort(this.#answers)); // Of a question that was given up.
    Atomics.store(this.#words, ANSWERED, 0);
    this.report({ type: "input_requested", prompt: String(text), password: false });
    Atomics.wait(this.#words, ANSWERED, 0);
    const answer = threads.receiveMessageOnPort(this.#answers);
    if (answer === undefined) throw new Interrupted();
    return answer.message;
  }

  #show(bundle, { displayId = null, update = false, isMain = false }) {
    const data = {};
    const notes = [];
    let left = MAX_SHOWN_BYTES;
    for (const [mime, value] of Object.entries(bundle)) {
      const size = Buffer.byteLength(JSON.stringify(value) ?? "");
      if (size <= left) {
        data[mime] = value;
        left -= size;
      } else {
        notes.push(`[${mime} of ${size} bytes is left out: over ${MAX_SHOWN_BYTES} bytes]`);
      }
    }
    if (notes.length > 0) data["text/plain"] = [data["text/plain"] ?? [], ...notes].flat().join("\n");
    const id = displayId === null ? null : String(displayId).slice(0, MAX_ID_CHARS);
    this.report({ type: "shown", data, display_id: id, update: Boolean(update), is_main: isMain });
  }
}

class Interrupted extends Error {
  constructor() {
    super("the cell was interrupted");
    this.stack = `Interrupted: ${this.message}`;
  }
}

class Missing extends Error {
  constructor() {
    super(`TypeScript needs Node.js 22.13 or newer, and this is ${process.version}`);
    this.name = "Missing";
  }
}

// --------------------------------------------------------------------------- the thread that takes orders

function takeOrders({ orders, words, answering }) {
  const { parentPort } = threads;

  function wake() {
    Atomics.store(words, ANSWERED, 1);
    Atomics.notify(words, ANSWERED);
  }

  function interrupt(order) {
    Atomics.store(words, INTERRUPTED, 1);
    wake();
    parentPort.postMessage(order);
    setTimeout(() => {
      if (Atomics.exchange(words, INTERRUPTED, 0) === 0) return;
      const session = new (require("node:inspector").Session)();
      session.connectToMainThread();
      session.post("Runtime.terminateExecution", () => session.disconnect());
    }, YIELD_MS);
  }

  parentPort.postMessage({ type: "ready" }); // From here on this file is read no more.
  const leave = () => process.kill(process.pid, "SIGKILL");
  const socket = new (require("node:net").Socket)({ fd: orders }).on("close", leave).on("error", leave);
  let held = Buffer.alloc(0);
  socket.on("data", (data) => {
    held = Buffer.concat([held, data]);
    while (held.length >= 4 && held.length >= 4 + held.readUInt32BE()) {
      const end = 4 + held.readUInt32BE();
      const order = JSON.parse(held.toString("utf8", 4, end));
      held = held.subarray(end);
      if (order.type === "interrupt") {
        interrupt(order);
      } else if (order.type === "answer") {
        answering.postMessage(order.value);
        wake();
      } else {
        parentPort.postMessage(order);
      }
    }
  });
}

// --------------------------------------------------------------------------- evaluation

// Gives a function that evaluates a cell's text, with in its scope what Node's own REPL has.
function evaluator() {
  const { createRequire, stripTypeScriptTypes } = require("node:module");
  const path = require("node:path");
  const { promiseHooks } = require("node:v8");
  const session = new (require("node:inspector").Session)();
  session.connect();
  process.on("exit", () => session.disconnect()); // Else Node says that it waits for a debugger.
  const withImports = importer();
  const unsettled = new Set();
  let kept;
  const keep = handleOf((value) => (kept = value));

  const requireHere = () => createRequire(path.join(process.cwd(), "cell.js"));
  define("module", { exports: {} });
  define("exports", {});
  define(IMPORT, (name, options) => quietly(() => importerIn(process.cwd())(name, options)));
  Object.defineProperty(globalThis, "require", {
    configurable: true,
    get: requireHere,
    set: (value) => define("require", value),
  });

  // Packages are looked for from where the importing script is said to lie.
  function importerIn(directory) {
    const { constants, Script } = require("node:vm");
    const options = {
      filename: path.join(directory, "cell.js"),
      importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    };
    return new Script("(name, options) => import(name, options)", options).runInThisContext();
  }

  function withoutTypes(code) {
    try {
      return quietly(() => stripTypeScriptTypes(code, { mode: "transform" }));
    } catch (error) {
      error.stack = String(error.stack).replace(/\n\s+at [^]*$/, "").trim(); // It shows the line; frames are Node's.
      throw error;
    }
  }

  function handleOf(value) {
    define("__handed", value);
    let handle;
    session.post("Runtime.evaluate", { expression: "__handed" }, (_, { result }) => (handle = result));
    delete globalThis.__handed;
    return { objectId: handle.objectId };
  }

  function valueOf({ objectId, unserializableValue: text, value }) {
    if (text !== undefined) return text.endsWith("n") ? BigInt(text.slice(0, -1)) : Number(text);
    if (objectId === undefined) return value;
    const functionDeclaration = 'function (keep) { "use strict"; keep(this); }';
    session.post("Runtime.callFunctionOn", { objectId, functionDeclaration, arguments: [keep] });
    const found = kept;
    kept = undefined;
    return found;
  }

  // Begins in this very call, so that all that the text starts knows by which cell it was started.
  function post(text, name) {
    return new Promise((resolve, reject) => {
      const expression = `${text}\n//# sourceURL=${name}`;
      // The first promise that is made is the cell's own. V8 tells a debugger when such a one is collected that nobody
      // will settle, in the middle of the collection, and Node ends itself over that. So it is kept.
      let own;
      let isSettled = false;
      const stop = promiseHooks.onInit((promise) => (own ??= promise));
      const options = { expression, replMode: true, objectGroup: name };
      session.post("Runtime.evaluate", options, (failure, answer) => {
        isSettled = true;
        unsettled.delete(own);
        if (failure) return reject(new Interrupted());
        const thrown = answer.exceptionDetails;
        const value = valueOf(thrown ? (thrown.exception ?? {}) : answer.result);
        session.post("Runtime.releaseObjectGroup", { objectGroup: name });
        const isMisspelt = thrown && value instanceof SyntaxError && !String(value.stack).includes(`at ${name}:`);
        if (isMisspelt) value.stack = `${value}\n    at ${name}:${thrown.lineNumber + 1}:${thrown.columnNumber + 1}`;
        resolve({ value, hasThrown: thrown !== undefined, isMisspelt });
      });
      stop();
      if (!isSettled) unsettled.add(own);
    });
  }

  return async function evaluate(code, name, language) {
    const toScript = (text) => withImports(language === "typescript" ? withoutTypes(text) : text);
    // As in every REPL, what could be a block is an object where that is possible.
    if (/^\s*\{[^]*\}\s*$/.test(code)) {
      const { value, hasThrown, isMisspelt } = await attempt(() => toScript(`(${code.trim()})`), name);
      if (!isMisspelt) return outcome(value, hasThrown);
    }
    const { value, hasThrown } = await post(toScript(code), name);
    return outcome(value, hasThrown);
  };

  async function attempt(toText, name) {
    try {
      return await post(toText(), name);
    } catch (error) {
      if (error instanceof SyntaxError) return { isMisspelt: true };
      throw error;
    }
  }

  function outcome(value, hasThrown) {
    if (hasThrown) throw value;
    return value;
  }
}

// Gives a function that makes a cell's `import` and `export` what a script can have.
function importer() {
  const parser = require("internal/deps/acorn/acorn/dist/acorn");
  const walk = require("internal/deps/acorn/acorn-walk/dist/walk");
  const options = { ecmaVersion: "latest", allowAwaitOutsideFunction: true, allowImportExportEverywhere: true };

  return function withImports(text) {
    if (!/\b(import|export)\b/.test(text)) return text;
    let tree;
    try {
      tree = parser.parse(text, options);
    } catch {
      return text; // V8 says what is wrong.
    }
    const edits = [];
    walk.simple(tree, {
      ImportExpression: ({ start }) => edits.push([start, start + "import".length, IMPORT]),
      ImportDeclaration: (node) => edits.push([node.start, node.end, dynamic(node, text)]),
      ExportNamedDeclaration: ({ start, end, declaration }) => edits.push([start, declaration?.start ?? end, ""]),
      ExportDefaultDeclaration: ({ start, declaration }) => edits.push([start, declaration.start, ""]),
      ExportAllDeclaration: ({ start, end }) => edits.push([start, end, ""]),
    });
    edits.sort(([a], [b]) => b - a);
    return edits.reduce((all, [start, end, put]) => all.slice(0, start) + put + all.slice(end), text);
  };
}

function dynamic({ specifiers, source, attributes = [] }, text) {
  const cut = (node) => text.slice(node.start, node.end);
  const given = attributes.length ? `, { with: { ${attributes.map(cut).join(", ")} } }` : "";
  const found = `await ${IMPORT}(${source.raw}${given})`;
  if (specifiers.length === 0) return `${found};`;
  const whole = specifiers.find(({ type }) => type === "ImportNamespaceSpecifier");
  const names = specifiers
    .filter((one) => one !== whole)
    .map(({ imported, local }) => `${imported ? cut(imported) : "default"}: ${local.name}`);
  const parts = whole ? [`${whole.local.name} = ${found}`] : [];
  if (names.length > 0) parts.push(`{ ${names.join(", ")} } = ${whole ? whole.local.name : found}`);
  return `const ${parts.join(", ")};`;
}

// --------------------------------------------------------------------------- values

function bundleOf(value) {
  const own = value?.[Symbol.for("Jupyter.display")];
  if (typeof own === "function") return own.call(value);
  const bundle = { "text/plain": require("node:util").inspect(withOwnFrames(value)) };
  if (value !== null && typeof value === "object" && isPlain(value)) bundle["application/json"] = value;
  if (value instanceof Uint8Array && value[0] === 0x89 && value[1] === 0x50) bundle["image/png"] = base64(value);
  if (value instanceof Uint8Array && value[0] === 0xff && value[1] === 0xd8) bundle["image/jpeg"] = base64(value);
  return bundle;
}

function base64(bytes) {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

// Whether JSON says all of it.
function isPlain(whole) {
  let left = MAX_JSON_PARTS;

  function isPart(value, levels) {
    if (value === null || typeof value === "string" || typeof value === "boolean") return true;
    if (typeof value === "number") return Number.isFinite(value);
    if (typeof value !== "object" || levels === 0) return false;
    const parts = Array.isArray(value) ? value : Object.values(value);
    left -= parts.length;
    if (left < 0) return false;
    if (Array.isArray(value)) return value.every((part) => isPart(part, levels - 1));
    if (value instanceof Date) return levels < MAX_JSON_LEVELS && !Number.isNaN(value.getTime());
    if (![null, Object.prototype].includes(Object.getPrototypeOf(value))) return false;
    return parts.every((part) => part === undefined || isPart(part, levels - 1));
  }

  return isPart(whole, MAX_JSON_LEVELS);
}

function describe(error, { colors = false } = {}) {
  try {
    const { name, value, traceback } = described(error, colors);
    return { name: shortened(name), value: shortened(value), traceback: shortened(traceback) };
  } catch {
    return { name: "Error", value: "what was thrown cannot be shown", traceback: "" };
  }
}

function described(error, colors) {
  const { inspect } = require("node:util");
  const shown = (value) => inspect(value, { colors });
  if (!(error instanceof Error)) return { name: "Error", value: inspect(error), traceback: `Uncaught ${shown(error)}` };
  const own = error.constructor?.name;
  const name = error.name === "Error" && own ? own : error.name;
  const { stack } = withOwnFrames(error);
  const traceback = /\n\s+at /.test(stack) ? shown(error) : stack;
  return { name: String(name), value: String(error.message), traceback };
}

function shortened(text) {
  if (text.length <= MAX_EXCEPTION_CHARS) return text;
  const half = MAX_EXCEPTION_CHARS / 2;
  return `${text.slice(0, half)}\n[…]\n${text.slice(-half)}`;
}

// Without the frames below the cell's, which are ours.
function withOwnFrames(value) {
  for (let one = value, left = MAX_JSON_LEVELS; one instanceof Error && left > 0; one = one.cause, left -= 1) {
    if (Object.isFrozen(one)) continue;
    one.stack = String(one.stack).replace(/\n\s+at Session\.post \(node:inspector[^]*$/, "");
  }
  return value;
}

// JSON text without lone surrogates, which JSON.stringify writes as escapes: UTF-8 has no way to say them.
function wellFormed(json) {
  if (!/\\ud[89a-f]/.test(json)) return json;
  return json.replace(/\\(?:ud[89a-f]..|[^])/g, (escape) => (escape.startsWith("\\ud") ? "\\ufffd" : escape));
}

// What Node calls experimental is no news for the user.
function quietly(work) {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return work();
  } finally {
    process.emitWarning = emitWarning;
  }
}

function setVariables(variables) {
  for (const [name, value] of Object.entries(variables)) {
    if (value === null) delete process.env[name];
    else process.env[name] = value;
  }
}

function define(name, value) {
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
}

if (threads.isMainThread) main(Number(process.argv[2]), Number(process.argv[3]));
else takeOrders(threads.workerData);
