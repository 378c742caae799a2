"""TRACE's tasks: the names of its paper, and ours."""

from __future__ import annotations

TRACE = {
    "C-STANCE": "trace_cstance",
    "FOMC": "trace_fomc",
    "MeetingBank": "trace_meetingbank",
    "Py150": "trace_py150",
    "ScienceQA": "trace_scienceqa",
    "NumGLUE-cm": "trace_numglue_cm",
    "NumGLUE-ds": "trace_numglue_ds",
    "20Minuten": "trace_20minuten",
}
