// Sends a file as tus-js-client does it, and goes on with what an earlier run has begun.
// Arguments: the URL of the uploads, the Authorization field, the file, where the places of uploads
// are kept, the most bytes of a request. Prints from where on it sent, and how much there is then.
"use strict";

const fs = require("node:fs");
const tus = require("tus-js-client");

const [endpoint, login, path, storage, most] = process.argv.slice(2);
let first; // the offset of the first PATCH

const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  headers: { Authorization: login },
  metadata: { filename: "sent.bin" },
  chunkSize: Number(most),
  urlStorage: new tus.FileUrlStorage(storage),
  retryDelays: Array(60).fill(500), // ms
  onBeforeRequest(request) {
    if (request.getMethod() === "PATCH") first ??= request.getHeader("Upload-Offset");
  },
  onSuccess() {
    // none where all that a killed client had handed to the system has arrived meanwhile
    const { size } = fs.statSync(path);
    console.log(`${first ?? size} ${size}`);
  },
  onError(error) {
    console.error(String(error));
    process.exitCode = 1;
  },
});

upload.findPreviousUploads().then((earlier) => {
  if (earlier.length) upload.resumeFromPreviousUpload(earlier[0]);
  upload.start();
});
