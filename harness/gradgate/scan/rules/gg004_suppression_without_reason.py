"""A comment `# gradgate: ignore[rule]` without `-- reason`, without a rule, or with a rule that does not exist. It
hides nothing until it has both.

```python
x.mul_(2)  # gradgate: ignore[inplace-on-saved-tensor]                             bad
x.mul_(2)  # gradgate: ignore[inplace-on-saved-tensor] -- x is a copy of our own   good
```
"""
