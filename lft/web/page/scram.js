"use strict";
// SCRAM-SHA-256 (RFC 5802, RFC 7677): the password stays in the browser.
const bytesOf = (text) => new TextEncoder().encode(text);
const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const unbase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

async function hmac(key, data) {
  const how = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", key, how, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
}

// Prepares a name or password as the server does (SASLprep, RFC 4013); what that prohibits is in no
// account. The tables are B.1, mapped to nothing, and C.1.2, other spaces (RFC 3454).
function prepared(text) {
  const nothing = /[\u00AD\u034F\u1806\u180B-\u180D\u200B-\u200D\u2060\uFE00-\uFE0F\uFEFF]/g;
  const spaces = /[\u00A0\u1680\u2000-\u200A\u202F\u205F\u3000]/g;
  return text.replace(nothing, "").replace(spaces, " ").normalize("NFKC");
}

async function saltedPassword(password, salt, iterations) {
  const raw = bytesOf(prepared(password));
  const key = await crypto.subtle.importKey("raw", raw, "PBKDF2", false, ["deriveBits"]);
  const how = { name: "PBKDF2", hash: "SHA-256", salt, iterations };
  return new Uint8Array(await crypto.subtle.deriveBits(how, key, 256));
}

// Logs in by two calls of `ask(body)`; returns who has logged in. Throws what `ask` throws.
async function scramLogin(user, password, ask) {
  const nonce = base64(crypto.getRandomValues(new Uint8Array(18)));
  const name = prepared(user).replace(/=/g, "=3D").replace(/,/g, "=2C");
  const bare = `n=${name},r=${nonce}`;
  const begun = await ask({ data: `n,,${bare}` });
  const given = Object.fromEntries(begun.data.split(",").map((one) => [one[0], one.slice(2)]));
  if (!given.r.startsWith(nonce)) throw new Error("the server's nonce is not ours");
  const salted = await saltedPassword(password, unbase64(given.s), Number(given.i));
  const clientKey = await hmac(salted, bytesOf("Client Key"));
  const storedKey = await crypto.subtle.digest("SHA-256", clientKey);
  const without = `c=biws,r=${given.r}`;
  const told = bytesOf(`${bare},${begun.data},${without}`);
  const signature = await hmac(storedKey, told);
  const proof = base64(clientKey.map((byte, at) => byte ^ signature[at]));
  const done = await ask({ id: begun.id, data: `${without},p=${proof}` });
  const expected = base64(await hmac(await hmac(salted, bytesOf("Server Key")), told));
  if (done.data !== `v=${expected}`) throw new Error("the server does not know this account");
  return done;
}
