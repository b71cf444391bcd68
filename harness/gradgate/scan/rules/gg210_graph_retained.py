"""After its backward, a loss is summed (`total += loss`) or put into a list with its history still on it, turn
after turn of a loop.

```python
total += loss                # bad: every step's graph stays alive
total += loss.detach()       # good: or loss.item()
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG210", "graph-retained"
_WHY = "what hangs on the graph stays in memory from step to step"
TEXTS = {
    "summed": Text(
        "`{name}` is summed with its graph after its backward",
        _WHY,
        "sum `{name}.detach()` or `{name}.item()`",
        "warning",
    ),
    "kept": Text(
        "`{name}` is kept in a container with its graph after its backward", _WHY, "keep `{name}.detach()`", "warning"
    ),
}
