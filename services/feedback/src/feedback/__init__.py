"""Surveys, reviews and complaints."""
