"""The site: README, executed notebooks, results and how-to pages, as they stand in the repository (make site).

The source folder is the repository itself, so links between pages mean the same here as on disk. No notebook is
executed, and nothing that a page loads lies on another server.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "hybridrec"
html_title = "Weak users to the LLM?"
root_doc = "README"
extensions = ["myst_nb", "sphinx_copybutton", "extension"]

# Where this repository can be fetched from, such as https://github.com/name/repository. Pages of notebooks then have
# buttons that run them elsewhere; without it they have none. make site REPOSITORY=https://github.com/name/repository
repository = ""

# What is a page. One that is missing from the navigation ends the build (-W), and so does one that it names in vain.
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "benchmarks/*.md",
    "docs/*.md",
    "docs/quiz/*.md",
    "docs/results/*.md",
    "notebooks/*.ipynb",
    "notebooks/appendix/*.ipynb",
    "notebooks/experiments/README.md",
    "exercises/*.ipynb",
    "exercises/README.md",
    "results/README.md",
    "results/ml-latest-small-2016/*.ipynb",  # those of ml-100k are in notebooks/, byte for byte
    "results/book-crossing/*.ipynb",
]
# Named only so that nobody walks these folders.
exclude_patterns = [".*", "_site", "data/[!R]*", "hybridrec", "tests"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no widgets, and no script from elsewhere
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # browsers can do it; MathJax would have to be loaded

html_theme = "furo"
html_favicon = "icon.svg"  # a coin
html_static_path = ["site.css", "site.js"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
copybutton_selector = "div.cell_input pre, article div[class*=highlight-]:not(.cell_output div) pre"
html_copy_source = False
html_show_search_summary = False  # a page opened from the disk may not fetch others
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
