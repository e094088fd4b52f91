"use strict";
// SHA-256 (FIPS 180-4) of bytes that come one piece after the other: WebCrypto takes all of them at once,
// and a file may be larger than memory.
const Sha256 = (() => {
  const BLOCK = 64; // bytes
  // the first 32 bits behind the point of the roots of the first primes
  const primes = [];
  for (let at = 2; primes.length < 64; at++) if (primes.every((one) => at % one)) primes.push(at);
  const bits = (root) => Math.floor((root % 1) * 2 ** 32) | 0;
  const K = Int32Array.from(primes, (one) => bits(Math.cbrt(one)));
  const START = Int32Array.from(primes.slice(0, 8), (one) => bits(Math.sqrt(one)));
  const turn = (word, by) => (word >>> by) | (word << (32 - by));

  return class {
    constructor() {
      this.state = START.slice();
      this.words = new Int32Array(64);
      this.rest = new Uint8Array(0); // less than a block
      this.length = 0;
    }
    update(data) {
      this.length += data.length;
      if (this.rest.length) {
        const joined = new Uint8Array(this.rest.length + data.length);
        joined.set(this.rest);
        joined.set(data, this.rest.length);
        data = joined;
      }
      const view = new DataView(data.buffer, data.byteOffset), end = data.length - (data.length % BLOCK);
      for (let at = 0; at < end; at += BLOCK) this.take(view, at);
      this.rest = data.slice(end);
    }
    take(view, start) {
      const { words: w, state } = this;
      for (let at = 0; at < 16; at++) w[at] = view.getInt32(start + 4 * at);
      for (let at = 16; at < 64; at++) {
        const old = w[at - 15], late = w[at - 2];
        const s0 = turn(old, 7) ^ turn(old, 18) ^ (old >>> 3), s1 = turn(late, 17) ^ turn(late, 19) ^ (late >>> 10);
        w[at] = (w[at - 16] + s0 + w[at - 7] + s1) | 0;
      }
      let a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
      for (let at = 0; at < 64; at++) {
        const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25), chosen = (e & f) ^ (~e & g);
        const first = (h + s1 + chosen + K[at] + w[at]) | 0;
        const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22), most = (a & b) ^ (a & c) ^ (b & c);
        h = g; g = f; f = e; e = (d + first) | 0;
        d = c; c = b; b = a; a = (first + s0 + most) | 0;
      }
      state[0] += a; state[1] += b; state[2] += c; state[3] += d;
      state[4] += e; state[5] += f; state[6] += g; state[7] += h;
    }
    // Returns the digest in hexadecimal; nothing may follow.
    hex() {
      const bits = this.length * 8, filler = new Uint8Array(9 + (119 - this.rest.length) % BLOCK);
      filler[0] = 0x80;
      const view = new DataView(filler.buffer);
      view.setUint32(filler.length - 8, Math.floor(bits / 2 ** 32));
      view.setUint32(filler.length - 4, bits >>> 0);
      this.update(filler);
      return Array.from(this.state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
    }
  };
})();
