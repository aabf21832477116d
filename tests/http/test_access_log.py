import structlog

CANARY = "canary-4711"


async def test_every_response_is_logged_without_what_could_name_somebody(site):
    paths = [
        f"/Patient/{CANARY}",
        f"/Patient?_id={CANARY}",
        f"/export-status/{CANARY}",
        f"/{CANARY}/x/y/z/a",
        f"/Patient?{CANARY}=1",
        f"/Group/{CANARY}/$export",
    ]

    with structlog.testing.capture_logs() as logs:
        for path in paths:
            await site.client.get(path, headers={"Prefer": "respond-async"})

    answered = [event for event in logs if event["event"] == "request.answered"]
    assert [event["status"] for event in answered] == [404, 200, 404, 404, 400, 404]
    assert [event["route"] for event in answered] == [
        "/Patient/{resource_id}",
        "/Patient",
        "/export-status/{job_id}",
        "(no route)",
        "/Patient",
        "/Group/{resource_id}/$export",
    ]
    assert all(event["complete"] and event["duration_ms"] >= 0 for event in answered)
    assert CANARY not in repr(logs)
