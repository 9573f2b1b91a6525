"""One request measured in one pass, a sweep of that over a grid, and the checks that make it trustworthy.

Not here: what measurements mean. They leave by way of `paceline.profiles`.
"""
