// Filters the findings and the results; without it everything is shown.
(function () {
  "use strict";
  var form = document.getElementById("filter");
  if (!form) { return; }
  form.hidden = false;
  var word = document.getElementById("word");
  var boxes = Array.prototype.slice.call(form.querySelectorAll("input[type=checkbox]"));
  var items = Array.prototype.slice.call(document.querySelectorAll("[data-status]"));
  var texts = items.map(function (item) { return item.textContent.toLowerCase(); });
  var told = document.getElementById("told");
  function apply() {
    var wanted = word.value.trim().toLowerCase();
    var on = boxes.filter(function (box) { return box.checked; }).map(function (box) { return box.value; });
    var shown = 0;
    items.forEach(function (item, at) {
      var keep = on.indexOf(item.dataset.status) >= 0 && texts[at].indexOf(wanted) >= 0;
      item.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    told.textContent = shown + " of " + items.length + " entries shown";
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { window.setTimeout(apply, 0); });
  document.addEventListener("keydown", function (event) {
    var inField = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !inField && !event.ctrlKey && !event.metaKey) { event.preventDefault(); word.focus(); }
  });
  apply();
}());
