"use strict";
// The small things that the parts of the page are made of: text comes into it as text only.
const $ = (id) => document.getElementById(id);
const tell = (text) => { $("message").textContent = text; };

function make(tag, text, ...inside) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...inside);
  return made;
}
function button(text, act) {
  const made = make("button", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}
function bytes(count) { // as the terminal has them: 1 KB is 1024 bytes
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let at = 0;
  for (; count >= 1024 && at < units.length - 1; at++) count /= 1024;
  return `${count.toLocaleString(document.documentElement.lang, { maximumFractionDigits: at ? 1 : 0 })} ${units[at]}`;
}
const when = (time) => new Date(time).toLocaleString(document.documentElement.lang);
function fill(list, items) {
  list.replaceChildren(...(items.length ? items : [make("li", say("nothing here"))]));
}
function bar(done, size, label) {
  const made = make("progress");
  made.setAttribute("aria-label", label);
  if (size !== null) { made.max = Math.max(size, 1); made.value = size ? done : 1; }
  return made;
}
// Returns what went wrong, in the server's words (RFC 9457).
async function problemOf(answer) {
  const told = await answer.json().catch(() => ({}));
  return Object.assign(new Error(told.detail || told.title || answer.statusText || answer.status), { status: answer.status });
}
