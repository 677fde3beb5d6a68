"""Streamlit pages: widgets, one library call, render."""
