"use strict";
// Uploads from the page: tus 1.0.0, in pieces whose SHA-256 the browser computes. What is unfinished is
// remembered by name, size and time, so that after a reload the same file, chosen again, goes on. What
// was begun elsewhere is listed by the server: a file of that name and size goes on with it, if it begins
// with the bytes that are there.
const uploads = (() => {
  const PLACE = "/api/v1/uploads", AT_ONCE = 3, KB = 1024, LEAST = 256 * KB, MOST = 8192 * KB, HASHED = 1024 * KB;
  const QUICK_MS = 700, SLOW_MS = 3000, PAUSES_MS = [1000, 2000, 4000, 8000, 15000, 30000], LOOK_MS = 2000;
  const PASSES = [408, 409, 423, 429, 460, 500, 502, 503, 504], GONE = [404, 410];
  const SAID = { running: "being sent", waiting: "waits for others" }; // the others are called as they are
  let user = null, onLogout = () => {}, all = [], again = 0, shown = "";

  // -- what this browser remembers

  const shelf = () => `uploads ${user}`;
  function remembered() {
    try { return JSON.parse(localStorage.getItem(shelf())) || {}; } catch { return {}; }
  }
  function remember(key, place) {
    const kept = remembered();
    if (place) kept[key] = place;
    else delete kept[key];
    try { localStorage.setItem(shelf(), JSON.stringify(kept)); } catch { /* then a reload begins anew */ }
  }
  const keyOf = (file) => JSON.stringify([file.name, file.size, file.lastModified]);

  // -- requests

  const base64 = (data) => btoa(String.fromCharCode(...new Uint8Array(data)));
  async function send(method, path, fields, body, signal) {
    const answer = await fetch(path, { method, headers: { "Tus-Resumable": "1.0.0", ...fields }, body, signal });
    if (answer.ok) return answer.headers;
    throw await problemOf(answer);
  }
  const pause = (time, signal) => new Promise((resolve) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
  });

  // -- one upload

  class Upload {
    constructor(file, place, begun) {
      this.file = file;
      this.key = keyOf(file);
      this.place = place; // of the upload at the server, once it is known
      this.begun = begun; // gives what the server knows of uploads that were begun elsewhere
      this.tried = []; // places of those that are of another file
      this.unproven = false; // whether the place may be that of another file
      this.offset = 0;
      this.unsure = Boolean(place); // whether the server has to be asked for the offset
      this.piece = LEAST;
      this.next = null; // the piece behind, read and hashed while one is sent
      this.state = "waiting";
      this.stop = new AbortController();
      this.bar = bar(0, file.size, file.name);
      this.facts = make("small");
      this.toggle = button("", () => (this.state === "running" || this.state === "waiting" ? this.rest("paused") : this.wait()));
      this.end = button("", () => this.cancel());
      this.item = make("li", "", make("strong", file.name), this.bar, this.facts, this.toggle, " ", this.end);
      this.show();
    }
    show(reason = "") {
      const running = this.state === "running", size = this.file.size;
      this.bar.value = size ? this.offset : Number(this.state === "done");
      const facts = [reason || say(SAID[this.state] || this.state), `${bytes(this.offset)} / ${bytes(size)}`];
      const seconds = (performance.now() - this.began) / 1000, rate = (this.offset - this.from) / seconds;
      if (running && !reason && rate > 0) facts.push(`${bytes(rate)}/s`, `${Math.ceil((size - this.offset) / rate)} s ${say("left")}`);
      this.facts.textContent = facts.join(" · ");
      const begun = running || this.state === "waiting";
      this.name(this.toggle, say(begun ? "Pause" : this.state === "failed" ? "Try again" : "Go on"));
      this.name(this.end, say("Cancel"));
    }
    name(one, text) {
      one.textContent = text;
      one.setAttribute("aria-label", `${text}: ${this.file.name}`);
    }
    wait() {
      this.state = "waiting";
      this.show();
      pump();
    }
    rest(state, reason) {
      this.state = state;
      this.stop.abort();
      this.unsure = Boolean(this.place);
      this.show(reason);
      pump();
    }

    async run() {
      this.state = "running";
      const { signal } = this.stop = new AbortController();
      let failures = 0;
      this.measure();
      this.show();
      while (!signal.aborted && this.state === "running") {
        try {
          await this.step(signal);
          failures = 0;
        } catch (error) {
          if (signal.aborted) return;
          if (error.status === 401) return logOut(this);
          if (GONE.includes(error.status) && this.place && !failures) this.forget(); // it begins anew
          else if (error.status && !PASSES.includes(error.status)) return this.fail(error.message);
          else if (error.name === "NotReadableError") return this.fail(say("the file has changed: choose it again"));
          else {
            this.show(error.status ? error.message : say("connection lost, trying again"));
            await pause(PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)], signal);
          }
          failures++;
          this.next = null;
          this.unsure = Boolean(this.place);
        }
      }
    }
    measure() {
      this.from = this.offset;
      this.began = performance.now();
    }
    async step(signal) {
      if (!this.place) return this.find(signal);
      if (!this.unsure) return this.sendPiece(signal);
      const answer = await send("HEAD", this.place, {}, undefined, signal);
      if (this.unproven && !await this.begins(answer, signal)) {
        said(this, say("another file than the unfinished one: sent from its start"));
        return this.forget();
      }
      const proven = this.unproven;
      this.unproven = this.unsure = false;
      this.take(answer);
      this.measure();
      if (!proven) return;
      if (this.state === "running") remember(this.key, this.place);
      look().catch(() => {});
    }
    // Takes an upload that may be of this file, or begins one.
    async find(signal) {
      const { name, size } = this.file, taken = [...this.tried, ...all.map((one) => one.place)];
      const fits = (one) => one.name === name && one.size === size && one.state === "resting";
      const found = (await this.begun()).find((one) => fits(one) && !taken.includes(one.href));
      if (!found) return this.create(signal);
      this.place = found.href;
      this.tried.push(this.place);
      this.unproven = this.unsure = true;
    }
    // Tells whether the file begins with the bytes that are at the server.
    async begins(answer, signal) {
      const end = Number(answer.get("Upload-Offset")), hash = new Sha256();
      for (let at = 0; at < end; at += HASHED) {
        hash.update(new Uint8Array(await this.file.slice(at, Math.min(at + HASHED, end)).arrayBuffer()));
        this.offset = Math.min(at + HASHED, end);
        this.show(say("comparing with what is there"));
        signal.throwIfAborted();
      }
      return answer.get("LFT-Digest") === `sha256 ${hash.hex()}`;
    }
    async create(signal) {
      const name = base64(new TextEncoder().encode(this.file.name));
      const fields = { "Upload-Length": this.file.size, "Upload-Metadata": `filename ${name}` };
      const answer = await send("POST", PLACE, fields, undefined, signal);
      this.place = answer.get("Location");
      remember(this.key, this.place);
      this.take(answer);
    }
    async sendPiece(signal) {
      const ready = this.next && this.next.at === this.offset ? this.next.made : this.read(this.offset);
      const { data, digest } = await ready, end = this.offset + data.size, began = performance.now();
      this.next = end < this.file.size ? { at: end, made: this.read(end) } : null;
      if (this.next) this.next.made.catch(() => {}); // told when its turn comes
      this.take(await send("PATCH", this.place, {
        "Content-Type": "application/offset+octet-stream", "Upload-Offset": this.offset,
        "Upload-Checksum": `sha256 ${base64(digest)}`,
      }, data, signal));
      const took = performance.now() - began;
      if (took < QUICK_MS) this.piece = Math.min(2 * this.piece, MOST);
      if (took > SLOW_MS) this.piece = Math.max(this.piece / 2, LEAST);
    }
    async read(at) {
      const data = this.file.slice(at, at + this.piece); // sent as it lies on the disk
      return { data, digest: await crypto.subtle.digest("SHA-256", await data.arrayBuffer()) };
    }
    take(answer) {
      const offset = answer.get("Upload-Offset");
      if (offset !== null) this.offset = Number(offset);
      if (answer.get("LFT-Verdict")) this.finish(answer);
      else this.show();
    }
    finish(answer) {
      const [algorithm, digest] = answer.get("LFT-Digest").split(" ");
      this.state = "done";
      this.offset = this.file.size;
      remember(this.key, null);
      this.show();
      const saved = decodeURIComponent(answer.get("LFT-Saved-As"));
      const proof = say(answer.get("LFT-Proof") === "chunk-checksums" ? "each piece checked" : "stored");
      this.facts.textContent = [proof, bytes(this.file.size), saved, `${algorithm} ${digest}`].join(" · ");
      this.toggle.hidden = true;
      const copy = button(say("Copy digest"), () => navigator.clipboard.writeText(digest));
      this.end.replaceWith(copy);
      copy.hidden = !navigator.clipboard;
      said(this, say("arrived"));
      pump();
    }
    fail(reason) {
      this.rest("failed", reason);
      said(this, reason);
    }
    forget() {
      remember(this.key, null);
      this.place = null;
      this.unproven = false;
      this.offset = 0;
    }
    async cancel() {
      const place = this.unproven ? null : this.place; // an upload that may be of another file stays
      this.rest("paused");
      this.forget();
      all = all.filter((one) => one !== this);
      this.item.remove();
      $("choose").focus();
      await giveUp(place);
    }
  }

  async function giveUp(place) {
    try { if (place) await send("DELETE", place, {}); } catch (error) {
      if (error.status && !GONE.includes(error.status)) tell(error.message);
    }
  }
  const said = (upload, text) => { $("uploadsaid").textContent = `${upload.file.name}: ${text}`; };
  function logOut(upload) {
    upload.rest("paused");
    onLogout();
  }
  function pump() {
    const free = AT_ONCE - all.filter((one) => one.state === "running").length;
    for (const one of all.filter((one) => one.state === "waiting").slice(0, free)) one.run();
  }

  // -- files that are chosen or dropped

  function add(files) {
    const kept = remembered();
    let listed = null;
    const begun = () => { // asked for once, as soon as one of the files needs it
      if (!listed) (listed = list()).catch(() => { listed = null; });
      return listed;
    };
    for (const file of files) {
      const key = keyOf(file), twin = all.find((one) => one.key === key && one.state !== "done");
      if (twin) {
        twin.file = file;
        if (twin.state === "paused" || twin.state === "failed") twin.wait();
        continue;
      }
      const upload = new Upload(file, kept[key], begun);
      all.push(upload);
      $("uploads").append(upload.item);
    }
    pump();
  }
  function drop(event) {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (!user) return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const files = [...event.dataTransfer.files].filter((_, at) => !(entries[at] && entries[at].isDirectory));
    if (files.length < event.dataTransfer.files.length) tell(say("folders are sent with client.py, whole and as one"));
    location.hash = "#upload";
    add(files);
  }
  $("choose").addEventListener("change", () => {
    add([...$("choose").files]);
    $("choose").value = "";
  });
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  window.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  window.addEventListener("drop", drop);

  // -- those that the server knows, and this page does not send

  async function list() {
    const answer = await fetch(PLACE);
    if (!answer.ok) throw await problemOf(answer);
    return (await answer.json()).uploads;
  }
  async function look() {
    clearTimeout(again);
    try { showLeft(await list()); } catch (error) {
      if (error.status === 401) return onLogout();
      throw error;
    }
  }
  function showLeft(begun) {
    const own = all.filter((one) => one.state !== "done").map((one) => one.place);
    const rest = begun.filter((one) => !own.includes(one.href)), text = JSON.stringify(rest);
    if (text !== shown) $("left").replaceChildren(...rest.map(left));
    shown = text;
    $("begun").hidden = !rest.length;
    const moves = rest.some((one) => one.state === "arriving");
    if (moves && user && !$("upload").hidden && !document.hidden) again = setTimeout(() => look().catch(() => {}), LOOK_MS);
  }
  function left(one) {
    const keys = Object.entries(remembered()).filter(([, place]) => place === one.href).map(([key]) => key);
    const end = button(say("Cancel"), async () => {
      for (const key of keys) remember(key, null);
      $("choose").focus();
      await giveUp(one.href);
      look().catch(() => {});
    });
    end.setAttribute("aria-label", `${say("Cancel")}: ${one.name}`);
    const way = one.state === "arriving" && !keys.length ? say("being sent elsewhere") : say("choose the file again to go on");
    const facts = make("small", `${bytes(one.received)} / ${bytes(one.size)} · ${way}`);
    return make("li", "", make("strong", one.name), bar(one.received, one.size, one.name), facts, end);
  }
  function enter(name, logout) {
    user = name;
    onLogout = logout;
  }
  function leave() {
    for (const one of all) if (one.state !== "done") one.rest("paused");
    all = [];
    user = null;
    clearTimeout(again);
    $("uploads").replaceChildren();
    showLeft([]);
    $("uploadsaid").textContent = "";
  }
  return { enter, leave, look };
})();
