"""A whole answer as the stream that it would have been."""

from __future__ import annotations

from attrs import evolve

from proxy import ir


def events_of(answer: ir.Answer) -> list[ir.StreamEvent]:
    """For providers that answer a stream request with a document."""
    events: list[ir.StreamEvent] = [
        ir.Start(answer.id, answer.model, answer.created, answer.usage, answer.service_tier, answer.fingerprint)
    ]
    for number, choice in enumerate(answer.choices):
        for index, part in enumerate(choice.parts):
            events += _part_events(index, part, number)
        events.append(ir.Finish(choice.stop, choice.stop_sequence, number, choice.native_stop))
    return [*events, ir.UsageReport(answer.usage), ir.End()]


def _part_events(index: int, part: ir.Part, choice: int) -> list[ir.StreamEvent]:
    match part:
        case ir.Text(text, citations):
            said: list[ir.StreamEvent] = [ir.CitationDelta(index, citation, choice) for citation in citations]
            shell: ir.Part = evolve(part, text="", citations=())
            said.append(ir.TextDelta(index, text, choice))
        case ir.Thinking(text=text, signature=signature, encrypted=encrypted):
            shell = evolve(part, text="", summary=(), signature=None, encrypted=None)
            said = [ir.ThinkingDelta(index, text, choice)] if text else []
            said += [ir.ThinkingDelta(index, piece, choice, number) for number, piece in enumerate(part.summary)]
            if signature is not None or encrypted is not None:
                said.append(ir.SignatureDelta(index, signature, choice, encrypted))
        case ir.ToolCall(arguments=arguments):
            shell, said = evolve(part, arguments=""), [ir.ArgumentsDelta(index, arguments, choice)]
        case ir.Refusal(text):
            shell, said = ir.Refusal(""), [ir.RefusalDelta(index, text, choice)]
        case _:
            shell, said = part, []
    return [ir.PartStart(index, shell, choice), *said, ir.PartEnd(index, choice, part)]
