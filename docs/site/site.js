// One control for all code of a notebook's page. What was chosen holds for the next page, too.
const folds = [...document.querySelectorAll("details.code")];
const control = document.getElementById("all-code");

function show(open) {
  folds.forEach(one => { one.open = open; });
  label();
}

function label() {
  const closed = folds.some(one => !one.open);
  control.textContent = closed ? "Show all code" : "Hide all code";
}

if (control && folds.length) {
  const chosen = localStorage.getItem("all-code");
  if (chosen) show(chosen === "open");
  control.addEventListener("click", () => {
    const open = folds.some(one => !one.open);
    localStorage.setItem("all-code", open ? "open" : "closed");
    show(open);
  });
  folds.forEach(one => one.addEventListener("toggle", label));
  label();
  control.hidden = false;
}
