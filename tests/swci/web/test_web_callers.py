from web_world import Service


def test_first(service: Service) -> None:
    caller = service.caller()
    print(caller.say("PWD"))
    print(caller.say("GET CONTEXT INFO"))
    print(caller.say("GET CONTEXT VERSION"))
    print(caller.get("/v1/directory").data)
    print(caller.get("/v1/contexts").data)
    print(caller.get("/v1/contexts/nope").data)
    print(caller.put("/v1/directory", directory="..").data)
    print(caller.upload("a.yaml", b"x").lines)
    print(caller.get("/v1/openapi.json").data[:300])
    print(caller.get("/v1/openapi.jsonn").problem)
    assert 0
