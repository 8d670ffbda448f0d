"""Controls of the page that refuse an input with its value, its bounds and a remedy."""

from __future__ import annotations

import math

from alan.app.session import MAX_UPLOAD_MB
from alan.extras import third_party

#: Script that refuses an upload before it is sent; the server could refuse it only after it has arrived.
GUARD = """<script>
(() => {
  const refuse = (event, files) => {
    const large = [...files].find(file => file.size > LIMIT * 1048576);
    const text = large
      ? `The file has ${Math.ceil(large.size / 1048576)} MB: the page takes at most LIMIT MB; use alan analyze`
      : files.length > 1
        ? `${files.length} files are given: the page takes one at a time; for a folder use alan analyze` : "";
    if (!text) return false;
    event.preventDefault();
    event.stopImmediatePropagation();
    window.alert(text);
    return true;
  };
  document.addEventListener("change", event => {
    const input = event.target;
    if (input.type === "file" && refuse(event, input.files)) input.value = "";
  }, true);
  document.addEventListener("drop", event => refuse(event, event.dataTransfer.files), true);
})();
</script>""".replace("LIMIT", str(MAX_UPLOAD_MB))


def check_number(number: float | None, minimum: float | None, maximum: float | None) -> None:
    """Refuse an empty field, which Gradio reports as an error of the program, and a number out of its bounds.

    Raises:
        gradio.Error: The number is not within the bounds; its message is shown on the page.
    """
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum
    if number is None or not low <= number <= high:
        what = "empty" if number is None else f"{number:g}"
        text = f"the number is {what}: enter one from {low:g} to {high:g}"
        raise third_party("gradio", "ui").Error(text, print_exception=False)
