"""The builder of docs/recipes.md in a browser: every model and hardware, the budget, what was measured, and the copied lines."""

import re
import shutil
from pathlib import Path

import markdown
import pytest
import recipe_commands
import yaml
from headless import launched
from playwright.sync_api import expect

ROOT = Path(__file__).parents[2]

RECIPES = recipe_commands.exported()
SETTINGS = yaml.safe_load(re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text()))
browser = pytest.fixture(scope="module")(launched)


@pytest.fixture(scope="module")
def builder_file(tmp_path_factory):
    """The page as the site writes it, without the theme."""
    folder = tmp_path_factory.mktemp("builder")
    (folder / "assets").mkdir()
    shutil.copy(ROOT / "docs/assets/builder.js", folder / "assets")
    text = recipe_commands.inlined((ROOT / "docs/recipes.md").read_text())
    named = [each if isinstance(each, str) else next(iter(each)) for each in SETTINGS["markdown_extensions"]]
    body = markdown.markdown(text, extensions=named)
    (folder / "recipes.html").write_text(f"<!doctype html><meta charset='utf-8'><body>{body}</body>")
    return folder / "recipes.html"


@pytest.fixture
def page(browser, builder_file):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(builder_file.as_uri())
    expect(page.locator("#builder")).to_be_visible()
    yield page
    context.close()
    assert page.complaints == []


def lines_of(page):
    return page.inner_text("#builder-commands").split("\n")


def test_every_model_hardware_and_budget_gives_the_exact_commands(page):
    assert page.locator("#builder-model option").all_inner_texts() == [each["hub"] for each in RECIPES]
    for budget, recipe in enumerate(RECIPES, start=250):
        page.select_option("#builder-model", label=recipe["hub"])
        names = [each["name"] for each in recipe["hardware"]]
        assert page.locator("#builder-hardware option").all_inner_texts() == names
        page.fill("#builder-budget", str(budget))
        for each in recipe["hardware"]:
            page.select_option("#builder-hardware", label=each["name"])
            assert lines_of(page) == [line.replace("BUDGET", str(budget)) for line in each["commands"]]
        facts = page.inner_text("#builder-facts")
        assert f"Family {recipe['family']}," in facts
        assert ("Not measured" in facts) == (recipe["measured"] is None)
        rows = page.locator("#builder-measured tr").count()
        assert rows == (0 if recipe["measured"] is None else 1 + len(recipe["measured"]["rows"]))


def test_what_was_measured_is_told_with_its_figures_and_its_source(page):
    recipe = next(each for each in RECIPES if each["measured"])
    page.select_option("#builder-model", label=recipe["hub"])
    for place, row in enumerate(recipe["measured"]["rows"], start=1):
        shown = page.locator("#builder-measured tr").nth(place).inner_text()
        assert shown.startswith(f"{row['budget_ms']:g}\t{row['paceline']:.3f}\t{row['table']:.3f}\t")
        assert f"{row['best_fixed']:.3f} ({row['best_fixed_config']})" in shown
    told = page.inner_text("#builder-measured")
    assert recipe["measured"]["told"] in told and recipe["measured"]["script"] in told


@pytest.mark.parametrize("budget", ["", "0", "-5", "1.5", "3600001"])
def test_a_budget_that_is_none_gives_no_commands(page, budget):
    page.fill("#builder-budget", budget)
    assert lines_of(page) == ["A budget is a whole number of milliseconds, 1 to 3600000."]
    expect(page.locator("#builder-copy")).to_be_disabled()
    page.fill("#builder-budget", "40")
    expect(page.locator("#builder-copy")).to_be_enabled()


def test_what_is_copied_is_what_is_shown(page):
    page.fill("#builder-budget", "123")
    page.click("#builder-copy")
    expect(page.locator("#builder-copied")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()").split("\n") == lines_of(page)
