"""The bare SQL that gives the figures of the server's answers, in the words of both engines."""

from __future__ import annotations

PAGE = "SELECT * FROM test_runs {where} ORDER BY started_at DESC, run_id LIMIT 100"

FILTERED = """WHERE status = 'completed' AND model_name = 'model-0' AND EXISTS (
    SELECT 1 FROM test_run_tags t
    WHERE t.run_id = test_runs.run_id AND t.tag_name = 'branch' AND t.tag_value = 'main')"""

FOUND = """WHERE
    strpos(lower(concat_ws(' ', run_id, model_name, array_to_string(hardware, ' '), test_type, status,
                           current_step, error, creator)), 'team-7') > 0
    OR EXISTS (SELECT 1 FROM test_run_tags t
               WHERE t.run_id = test_runs.run_id
               AND strpos(lower(concat_ws(' ', t.tag_name, t.tag_value)), 'team-7') > 0)"""

OF_PAGE = (
    "SELECT run_id, tests_passed, tests_failed, tests_skipped FROM test_run_results WHERE run_id IN ({ids})",
    "SELECT run_id, count(*) FROM test_run_steps WHERE run_id IN ({ids}) GROUP BY run_id",
    "SELECT run_id, count(*) FROM test_run_metrics WHERE run_id IN ({ids}) GROUP BY run_id",
    "SELECT run_id, count(*) FROM test_run_artifacts WHERE run_id IN ({ids}) GROUP BY run_id",
    "SELECT run_id, tag_name, tag_value FROM test_run_tags WHERE run_id IN ({ids})",
    "SELECT run_id, batch_id FROM test_run_batch WHERE run_id IN ({ids})",
)

OF_RUN = (
    "SELECT * FROM test_runs WHERE run_id = ?",
    "SELECT * FROM test_run_results WHERE run_id = ?",
    "SELECT * FROM test_run_steps WHERE run_id = ? ORDER BY started_at, step_name",
    "SELECT * FROM test_run_metrics WHERE run_id = ? ORDER BY id",
    "SELECT * FROM test_run_tags WHERE run_id = ?",
    "SELECT * FROM test_run_artifacts WHERE run_id = ?",
    "SELECT batch_id FROM test_run_batch WHERE run_id = ?",
)
"""Each has the run's id as its one parameter."""

COUNTS = """
    count(*), count(*) FILTER (WHERE status = 'completed'),
    count(*) FILTER (WHERE status IN ('error', 'timeout')),
    count(*) FILTER (WHERE status = 'cancelled')"""

RUN_STATS = f"""
    SELECT {{key}}, {COUNTS},
        avg(duration) FILTER (WHERE status = 'completed'), min(duration) FILTER (WHERE status = 'completed'),
        max(duration) FILTER (WHERE status = 'completed'),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY duration) FILTER (WHERE status = 'completed'),
        percentile_cont(0.95) WITHIN GROUP (ORDER BY duration) FILTER (WHERE status = 'completed'),
        sum(tests_passed), sum(tests_failed), sum(tests_skipped), max(started_at)
    FROM {{runs}} LEFT JOIN test_run_results USING (run_id) {{where}} GROUP BY 1 ORDER BY 2 DESC, 1"""

BY_PLATFORM = (
    "(SELECT run_id, status, duration, started_at, unnest(hardware) AS platform FROM test_runs) runs"
)

LATELY = "WHERE started_at >= CAST(now() AS TIMESTAMP) - INTERVAL '30 days'"

DAILY = f"""
    SELECT CAST(started_at AS DATE), {COUNTS}, avg(duration) FILTER (WHERE status = 'completed')
    FROM test_runs {LATELY} GROUP BY 1 ORDER BY 1 DESC"""

METRIC_GROUPS = f"""
    SELECT model_name, hardware, metric_name, metric_unit, count(metric_value), avg(metric_value),
        min(metric_value), max(metric_value),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY metric_value),
        percentile_cont(0.95) WITHIN GROUP (ORDER BY metric_value),
        percentile_cont(0.99) WITHIN GROUP (ORDER BY metric_value)
    FROM test_runs JOIN test_run_metrics USING (run_id) {LATELY} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""

NEWEST_METRICS = f"""
    SELECT run_id, metric_name, count(*), min(metric_value), max(metric_value), avg(metric_value)
    FROM test_run_metrics WHERE run_id IN (
        SELECT run_id FROM test_runs {LATELY} AND status = 'completed'
        ORDER BY started_at DESC, run_id LIMIT 100)
    GROUP BY 1, 2"""

MODEL_STATS = RUN_STATS.format(key="model_name", runs="test_runs", where="")
HARDWARE_STATS = RUN_STATS.format(key="platform", runs=BY_PLATFORM, where="")
PERFORMANCE = (
    DAILY,
    RUN_STATS.format(key="model_name", runs="test_runs", where=LATELY),
    RUN_STATS.format(key="platform", runs=BY_PLATFORM, where=LATELY),
    NEWEST_METRICS,
    METRIC_GROUPS,
)
"""Beside these the report has the newest page."""

TABLES = (
    "test_runs",
    "test_run_results",
    "test_run_steps",
    "test_run_metrics",
    "test_run_tags",
    "test_run_artifacts",
    "batch_test_runs",
    "test_run_batch",
)
CHILDREN = (
    "test_run_batch",
    "test_run_artifacts",
    "test_run_tags",
    "test_run_metrics",
    "test_run_steps",
    "test_run_results",
)
