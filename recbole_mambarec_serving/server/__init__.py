"""Recommendations over HTTP: ``recbole-mambarec serve``; needs the extra ``[serve]`` (FastAPI, uvicorn)."""
