"""Names the fixture plugins; no logic."""

pytest_plugins = ["pytester", "fixtures.pytest_fixtures"]
