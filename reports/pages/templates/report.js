// What style alone cannot do: one axis for all curves, all completions at once, and nothing left closed in print.
(function () {
  "use strict";

  // Choosing an axis in any switch chooses it in all, so that the curves can be read against each other.
  const inputs = Array.from(document.querySelectorAll(".curves .switch input"));
  inputs.forEach(function (chosen) {
    chosen.addEventListener("change", function () {
      inputs.forEach(function (input) { if (input.value === chosen.value) input.checked = true; });
    });
  });

  // The button is made here, because without a script it could do nothing.
  const examples = Array.from(document.querySelectorAll(".example"));
  if (examples.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tool";
    const label = function () {
      button.textContent = examples.every(function (example) { return example.open; }) ? "Close all" : "Open all";
    };
    button.addEventListener("click", function () {
      const open = button.textContent === "Open all";
      examples.forEach(function (example) { example.open = open; });
      label();
    });
    examples[0].before(button);
    label();
  }

  // Browsers that cannot open what is collapsed for print by style are helped.
  let opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (part) { part.open = false; });
  });
})();
