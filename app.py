"""The browser's door: ``streamlit run app.py``. Navigation only; each page is in ``pages/``."""

from pages.ui.navigation import run

run()
