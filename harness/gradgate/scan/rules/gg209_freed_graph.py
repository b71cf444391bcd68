"""A backward reaches nodes whose buffers an earlier backward has freed: a state carried from step to step, or a
value computed before a loop and backpropagated in each turn, without `detach`. In a module: `forward` keeps a
value with its graph on `self`, and reads it in the next call. The finding is the line that hands the old graph
on.

```python
self.state = state               # bad: the next step backpropagates into this one
self.state = state.detach()      # good
```
"""

from gradgate.scan.rules.text import Text

CODE, NAME = "GG209", "freed-graph"
_WHY = (
    "backward goes on into a graph that an earlier backward has freed: it raises, or, where retained, grows without end"
)
TEXTS = {
    "freed": Text(
        "the graph of this value is backpropagated again after the backward on line {first} freed it",
        _WHY,
        "detach what is carried from step to step, or compute it anew",
    ),
    "carried": Text(
        "self.{name} keeps a graph from one forward to the next",
        _WHY,
        "keep it without its history: `.detach()`",
        "warning",
    ),
    "buffer": Text(
        "self.{name} is overwritten with a value that has a graph, and is read in the next forward",
        _WHY,
        "write the detached value, or return the new one instead of storing it",
        "warning",
    ),
}
