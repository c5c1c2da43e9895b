// Uploads a file with its progress, which `fetch` does not tell.

import { ProblemError, address, noAnswer } from "./api.js";
import { token } from "./session.js";

/** Sends a file as the body of a PUT. Resolves to the JSON of the response. */
export function upload(target, query, file, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address(target, query));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (token()) request.setRequestHeader("Authorization", `Bearer ${token()}`);
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onload = () => {
      const answer = parse(request.responseText);
      if (request.status < 300 && answer) resolve(answer);
      else
        reject(
          new ProblemError(
            answer?.code ? answer : { ...noAnswer(request.statusText), status: request.status },
          ),
        );
    };
    request.onerror = () =>
      reject(new ProblemError(noAnswer(`The upload of ${file.name} was cut.`)));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
