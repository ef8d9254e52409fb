// Keeps an open page up to date: puts what the server sends into the region of its name.
"use strict";

/** Says whether the page is live. */
function say(text) {
  Object.assign(document.getElementById("live"), { textContent: text, hidden: false });
}

/** Whether the reader is busy in a region: types or has typed, presses a button, or selects text. */
function isBusy(region) {
  const selection = getSelection();
  return region.querySelector("input:focus, :active") !== null
    || [...region.querySelectorAll("input")].some((input) => input.value !== input.defaultValue)
    || (!selection.isCollapsed && selection.containsNode(region, true));
}

/** Replaces a region and keeps the focus, what is open, and how far its tables are scrolled. */
function replace(region, html) {
  if (region.innerHTML === html) return;
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  const links = focused && !focused.id ? [...region.querySelectorAll("a, button, [tabindex]")] : [];
  const scrolled = [...region.querySelectorAll(".scroll")].map((table) => table.scrollLeft);
  region.innerHTML = html;
  region.querySelectorAll(".scroll").forEach((table, n) => { table.scrollLeft = scrolled[n] ?? 0; });
  if (!focused) return;
  const again = focused.id
    ? document.getElementById(focused.id)
    : [...region.querySelectorAll("a, button, [tabindex]")].find((element, n) =>
        focused.href ? element.href === focused.href : n === links.indexOf(focused));
  again?.focus({ preventScroll: true });
}

const waiting = new Map();

/** Replaces a region now, or as soon as the reader leaves it. */
function show(id, html) {
  const region = document.getElementById(id);
  if (!region || !region.hasAttribute("data-region")) return;
  waiting.delete(id);
  if (isBusy(region)) waiting.set(id, html);
  else replace(region, html);
}

setInterval(() => waiting.forEach((html, id) => show(id, html)), 500);

/** Follows the page for as long as it is open. A server that refuses is asked again later. */
function follow(url) {
  const source = new EventSource(url);
  for (const region of document.querySelectorAll("[data-region]")) {
    source.addEventListener(region.id, (event) => show(region.id, event.data));
  }
  source.onopen = () => say("This page is live.");
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      say("This page is not live: the server has too many open pages, or stops. Reload it to see what is new.");
      setTimeout(follow, 30000, url);
    } else {
      say("This page is not live: the connection is lost, and is tried again.");
    }
  };
  addEventListener("pagehide", () => source.close(), { once: true });
}

/** Says that a redrive has ended early; its last figures stay. */
function fail(text) {
  const region = document.getElementById("progress");
  const notice = region.querySelector(".notice") ?? region.appendChild(document.createElement("p"));
  Object.assign(notice, { className: "notice bad", textContent: text });
}

/** Sends a form and shows what it leads to for as long as that goes on. */
async function stream(form) {
  const [send, stop] = [form.querySelector("[type=submit]"), form.querySelector("[data-stop]")];
  const ending = new AbortController();
  const hold = (event) => event.preventDefault();
  send.disabled = true;
  stop.hidden = false;
  stop.onclick = () => ending.abort();
  addEventListener("beforeunload", hold);
  let isOver = false;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "text/event-stream" },
      body: new URLSearchParams(new FormData(form)),
      signal: ending.signal,
    });
    if (!answer.ok) throw new Error(`it was refused with status ${answer.status}`);
    let text = "";
    for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        const lines = frame.split("\n");
        const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(6));
        isOver ||= name === "end";
        if (name) show(name, data.join("\n"));
      }
    }
    if (!isOver) fail("The redrive has ended early: the server has closed the connection.");
  } catch (error) {
    fail(ending.signal.aborted ? "You have stopped the redrive." : `The redrive has ended: ${error.message}.`);
  }
  stop.hidden = true;
  removeEventListener("beforeunload", hold);
}

if (document.body.dataset.live) follow(document.body.dataset.live);
for (const form of document.querySelectorAll("form[data-stream]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    stream(form);
  });
}
