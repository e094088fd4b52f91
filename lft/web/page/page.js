"use strict";
(() => {
  const API = "/api/v1", SAMPLES = 240, VERDICTS = 10, RETRY_MS = 3000, WRITTEN_MS = 1000;
  const rates = [];
  let user = null, stream = null, retry = 0, verdicts = [], folder = "", after = "", before = "", links = [], paged = false;

  async function ask(method, path, body) {
    const options = { method, headers: {} };
    if (body) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const answer = await fetch(API + path, options);
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    if (answer.status === 401 && user) showLogin();
    throw await problemOf(answer);
  }
  const attempt = (act) => async (event) => {
    if (event) event.preventDefault();
    try { tell(""); await act(); } catch (error) { tell(error.message); }
  };

  // -- login

  function showLogin() {
    user = null;
    uploads.leave();
    closeStream();
    $("nav").hidden = true;
    for (const one of document.querySelectorAll("section")) one.hidden = true;
    $("login").hidden = !window.isSecureContext || !crypto.subtle;
    if ($("login").hidden) tell(say("log in over https, or from this machine: this browser computes no proofs here"));
    else $("name").focus();
  }
  function enter(facts) {
    user = facts.user;
    $("user").textContent = user;
    $("whose").hidden = !facts.may.some((one) => one === "read-all" || one === "operate");
    $("who").value = "";
    $("login").hidden = true;
    $("nav").hidden = false;
    folder = "";
    verdicts = [];
    rates.length = 0;
    uploads.enter(user, showLogin);
    show();
    openStream();
  }
  $("login").addEventListener("submit", attempt(async () => {
    const password = $("password").value;
    $("password").value = "";
    enter(await scramLogin($("name").value, password, (body) => ask("POST", "/session", body)));
  }));
  $("logout").addEventListener("click", attempt(async () => { await ask("DELETE", "/session"); showLogin(); }));

  // -- which part is shown

  const parts = { dashboard: refresh, files: () => list(true), upload: () => uploads.look(), history: () => past(true) };
  function show() {
    if (!user) return;
    const part = Object.hasOwn(parts, location.hash.slice(1)) ? location.hash.slice(1) : "dashboard";
    for (const one of document.querySelectorAll("section")) one.hidden = one.id !== part;
    for (const one of document.querySelectorAll("nav a")) {
      if (one.hash === `#${part}`) one.setAttribute("aria-current", "page");
      else one.removeAttribute("aria-current");
    }
    attempt(parts[part])();
  }
  window.addEventListener("hashchange", show);

  // -- dashboard

  function transfer(one) {
    const facts = [one.user, one.address, one.size === null ? bytes(one.received) : `${bytes(one.received)} / ${bytes(one.size)}`];
    if (one.position) facts.push(`${say("position")} ${one.position}`);
    else facts.push(`${bytes(one.rate)}/s`);
    if (one.eta_seconds !== null && !one.position) facts.push(`${one.eta_seconds} s ${say("left")}`);
    if (one.held_up_by) facts.push(`${say("held up by")} ${say(one.held_up_by)}`);
    const item = make("li", "", make("strong", one.name));
    if (!one.position) item.append(bar(one.received, one.size, one.name));
    item.append(make("small", facts.join(" · ")));
    return item;
  }
  function showTransfers(all) {
    fill($("running"), all.filter((one) => !one.position).map(transfer));
    fill($("waiting"), all.filter((one) => one.position).map(transfer));
  }
  function sample(all) {
    const now = Date.now();
    rates.push([now, all.reduce((sum, one) => sum + (one.position ? 0 : one.rate), 0)]);
    while (rates.length > SAMPLES * 2 || rates[0][0] < now - SAMPLES * 1000) rates.shift();
    draw(now);
  }
  function draw(now) {
    const peak = Math.max(1, ...rates.map(([, rate]) => rate));
    const points = rates.map(([at, rate]) => `${600 - (now - at) * 600 / (SAMPLES * 1000)},${98 - 96 * rate / peak}`);
    $("line").setAttribute("points", points.join(" "));
    $("peak").textContent = `${bytes(rates.length ? rates[rates.length - 1][1] : 0)}/s · ${say("peak")} ${bytes(peak > 1 ? peak : 0)}/s`;
  }
  function outcome(one) {
    const facts = [say(one.outcome), when(one.ended), one.user, bytes(one.size), one.reason || one.digest];
    return make("li", "", make("strong", one.name), make("small", facts.filter(Boolean).join(" · ")));
  }
  function showVerdicts() { fill($("verdicts"), verdicts.map(outcome)); }
  async function refresh() {
    const [server, { transfers }] = await Promise.all([ask("GET", "/server"), ask("GET", "/transfers")]);
    $("facts").textContent = `${bytes(server.load.free_bytes)} ${say("free")}`;
    showTransfers(transfers);
    sample(transfers);
    verdicts = (await ask("GET", `/history?limit=${VERDICTS}`)).entries;
    showVerdicts();
  }

  // -- events: one stream a tab, none while it is hidden

  function closeStream() {
    clearTimeout(retry);
    if (stream) stream.close();
    stream = null;
  }
  function openStream() {
    closeStream();
    if (!user || document.hidden) return;
    stream = new EventSource(`${API}/events`);
    stream.addEventListener("open", () => tell(""));
    stream.addEventListener("progress", (event) => {
      const all = JSON.parse(event.data).transfers;
      showTransfers(all);
      sample(all);
    });
    for (const kind of ["verdict", "failure"]) stream.addEventListener(kind, (event) => {
      verdicts = [JSON.parse(event.data), ...verdicts].slice(0, VERDICTS);
      showVerdicts();
      setTimeout(renew, WRITTEN_MS);
    });
    stream.addEventListener("resync", show);
    stream.addEventListener("error", () => {
      tell(say("connection lost, trying again"));
      if (stream && stream.readyState === EventSource.CLOSED) retry = setTimeout(again, RETRY_MS);
    });
  }
  // The history is written after its event; a reader of its later pages keeps them.
  function renew() {
    if (user && !$("history").hidden && !paged) attempt(() => past(true))();
    if (user && !$("upload").hidden) attempt(uploads.look)();
  }
  // Asks whether the login still holds: an EventSource does not tell why it was refused.
  async function again() {
    try { await ask("GET", "/session"); show(); openStream(); } catch (error) {
      if (user) retry = setTimeout(again, RETRY_MS);
    }
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) closeStream();
    else if (user) { show(); openStream(); }
  });

  // -- files

  function open(path) { folder = path; attempt(() => list(true))(); }
  function entry(one) {
    const item = make("li");
    if (one.kind === "directory") {
      item.append(button(`${one.name}/`, () => open(one.path)));
    } else {
      const link = make("a", one.name);
      link.href = one.href;
      link.setAttribute("download", one.original_name);
      links.push([new URL(one.href, location.origin).href, one.name]);
      item.append(link);
    }
    const facts = [one.size === null ? "" : bytes(one.size), when(one.modified * 1000)];
    if (one.digest) facts.push(`${one.algorithm} ${one.digest}`);
    item.append(make("small", facts.filter(Boolean).join(" · ")));
    if (one.digest && navigator.clipboard) {
      item.append(button(say("Copy digest"), attempt(() => navigator.clipboard.writeText(one.digest))));
    }
    return item;
  }
  function unfinished(one) {
    const facts = [one.user, `${bytes(one.received)}${one.size === null ? "" : ` / ${bytes(one.size)}`}`];
    return make("li", "", make("strong", one.name), bar(one.received, one.size, one.name), make("small", facts.join(" · ")));
  }
  async function list(anew) {
    if (anew) after = "";
    const query = new URLSearchParams({ sort: $("sort").value });
    if (folder) query.set("dir", folder);
    if (after) query.set("after", after);
    const page = await ask("GET", `/files?${query}`);
    if (anew) {
      links = [];
      fill($("unfinished"), page.unfinished.map(unfinished));
      const up = button(say("Up"), () => open(page.dir.split("/").slice(0, -1).join("/")));
      $("folder").replaceChildren(`/${page.dir} `, ...(folder ? [up] : []));
      fill($("entries"), page.entries.map(entry));
    } else $("entries").append(...page.entries.map(entry));
    after = page.next || "";
    $("morefiles").hidden = !after;
  }
  $("sort").addEventListener("change", attempt(() => list(true)));
  $("morefiles").addEventListener("click", attempt(() => list(false)));
  $("urls").addEventListener("click", () => {
    const text = links.map(([url, name]) => `${url}\n  out=${name}\n`).join("");
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = "urls.txt";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), RETRY_MS);
  });

  // -- history

  async function past(anew) {
    if (anew) before = "";
    paged = !anew;
    const query = new URLSearchParams();
    for (const [key, value] of [["q", $("q").value], ["outcome", $("outcome").value], ["user", $("who").value]]) {
      if (value) query.set(key, value);
    }
    $("csv").href = `${API}/history?${query}${query.size ? "&" : ""}format=csv`;
    if (before) query.set("before", before);
    const page = await ask("GET", `/history?${query}`);
    if (anew) fill($("past"), page.entries.map(outcome));
    else $("past").append(...page.entries.map(outcome));
    before = page.next || "";
    $("morepast").hidden = !before;
  }
  for (const one of ["received", "failed", "refused", "interrupted"]) {
    const option = make("option", say(one));
    option.value = one;
    $("outcome").append(option);
  }
  $("filter").addEventListener("submit", attempt(() => past(true)));
  $("morepast").addEventListener("click", attempt(() => past(false)));

  ask("GET", "/session").then(enter, (error) => {
    showLogin();
    if (error.status !== 401) tell(error.message);
  });
})();
