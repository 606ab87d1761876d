// One axis for all curves: choosing it in any switch shows that axis everywhere. Without this script every axis is shown.
(function () {
  "use strict";
  const panels = document.querySelectorAll("figure[data-axis]");
  const inputs = document.querySelectorAll(".switch input");
  if (!inputs.length) return;

  function show(axis) {
    document.querySelectorAll(".curves").forEach(function (section) {
      const own = section.querySelectorAll("figure[data-axis]");
      const has = Array.from(own).some(function (panel) { return panel.dataset.axis === axis; });
      if (!has) return;
      own.forEach(function (panel) { panel.hidden = panel.dataset.axis !== axis; });
    });
    inputs.forEach(function (input) { if (input.value === axis) input.checked = true; });
  }

  document.documentElement.classList.add("js");
  inputs.forEach(function (input) {
    input.addEventListener("change", function () { show(input.value); });
  });
  if (panels.length) {
    document.querySelectorAll(".curves").forEach(function (section) {
      const first = section.querySelector(".switch input:checked");
      if (first) show(first.value);
    });
  }
})();
