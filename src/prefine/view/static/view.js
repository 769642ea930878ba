// Keys, live pages and flags of prefine view. Pages work without it.
"use strict";

(() => {
  const typing = (target) =>
    target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  const rows = () => [...document.querySelectorAll("a[data-row]")];

  function step(by) {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by;
    if (next >= 0 && next < all.length) all[next].focus();
  }

  function follow(key) {
    for (const link of document.querySelectorAll("[data-key]")) {
      if (link.dataset.key.split(" ").includes(key)) {
        link.click();
        return true;
      }
    }
    return false;
  }

  function up() {
    const links = document.querySelectorAll(".crumbs a");
    if (links.length) links[links.length - 1].click();
  }

  function search() {
    const field = document.querySelector("[data-search]");
    if (field) {
      field.focus();
      field.select();
    } else {
      const list = document.querySelector('[data-key~="u"], [data-key~="p"]');
      if (list) location.assign(`${list.getAttribute("href").replace(/#.*/, "")}#search`);
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      if (event.target.type !== "checkbox") return;
    }
    const flag = document.querySelector("[data-flag]");
    const note = document.querySelector("[data-words]");
    const actions = {
      j: () => follow("j") || step(1),
      k: () => follow("k") || step(-1),
      "/": search,
      u: () => follow("u") || up(),
      f: () => flag && flag.click(),
      n: () => note && note.focus(),
      x: () => {
        const line = document.activeElement.closest(".run-line");
        const box = line && line.querySelector('input[type="checkbox"]');
        if (box) box.click();
      },
    };
    const inPicture = event.target.closest && event.target.closest("figure, [role=region]");
    if (event.key.startsWith("Arrow") && inPicture) return;
    const action = actions[event.key];
    if (action) {
      event.preventDefault();
      action();
    } else if (follow(event.key)) {
      event.preventDefault();
    }
  });

  if (location.hash === "#search") search();

  // A flag is kept when it is set, without a press of the button.
  const form = document.querySelector("[data-note]");
  if (form) {
    form.querySelector("[data-flag]").addEventListener("change", () => form.requestSubmit());
  }

  // While a run works, what says so is replaced by what the same address says now.
  async function refresh() {
    const busy = () => {
      const active = document.activeElement;
      return document.hidden || !document.body.hasAttribute("data-working") ||
        (active && active.closest("[data-live]")) ||
        document.querySelector("[data-live] input:checked");
    };
    if (busy()) return;
    let page;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      page = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      return; // The viewer was stopped, or the network of this machine is busy: the page stays.
    }
    if (busy()) return;
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = page.getElementById(old.id);
      if (now) old.replaceWith(document.adoptNode(now));
    }
    document.body.toggleAttribute("data-working", page.body.hasAttribute("data-working"));
    document.dispatchEvent(new CustomEvent("prefine:replaced"));
  }
  setInterval(refresh, 3000);
})();
