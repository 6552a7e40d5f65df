"""Collectives in the text of a compiled program, loops and asynchronous pieces included."""

from overfill_jax.planning.collectives import Traffic, read_collectives

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%piece.1 (param_0: bf16[1,8]) -> (bf16[1,8], bf16[16,8]) {
  %param_0 = bf16[1,8]{1,0} parameter(0)
  %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=7, dimensions={0}
  ROOT %tuple.1 = (bf16[1,8]{1,0}, bf16[16,8]{1,0}) tuple(%param_0, %all-gather.1)
}

%piece.2 (param_0: bf16[1,8]) -> bf16[16,8] {
  %param_0 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=7
}

%ring_condition (state: (u32[], f32[4])) -> pred[] {
  %state = (u32[], f32[4]{0}) parameter(0)
  %counter.1 = u32[]{:T(128)} get-tuple-element(%state), index=0
  %bound.1 = u32[]{:T(128)} constant(8), metadata={op_name="ring"}
  ROOT %compare.1 = pred[]{:T(512)} compare(%counter.1, %bound.1), direction=LT
}

%ring (state: (u32[], f32[4])) -> (u32[], f32[4]) {
  %state = (u32[], f32[4]{0}) parameter(0)
  %counter.2 = u32[]{:T(128)} get-tuple-element(%state), index=0
  %two = u32[]{:T(128)} constant(2)
  %next.1 = u32[]{:T(128)} add(%counter.2, %two), metadata={op_name="ring"}
  %part = f32[4]{0} get-tuple-element(%state), index=1
  %permute = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%part), channel_id=9
  %done = f32[4]{0} collective-permute-done(%permute)
  ROOT %tuple.2 = (u32[], f32[4]{0}) tuple(%next.1, %done)
}

%layers_condition (state: (s32[], f32[4])) -> pred[] {
  %state = (s32[], f32[4]{0}) parameter(0)
  %counter.3 = s32[]{:T(128)} get-tuple-element(%state), index=0
  %bound.2 = s32[]{:T(128)} constant(28)
  ROOT %lt = pred[]{:T(512)} compare(%counter.3, %bound.2), direction=LT
}

%layers (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %fusion.1 = (bf16[1,8], bf16[16,8]) fusion(%state), kind=kCustom, calls=%piece.1
  %fusion.2 = bf16[16,8] fusion(%fusion.1), kind=kCustom, calls=%piece.2
  %while.1 = (u32[], f32[4]{0}) while(%state), condition=%ring_condition, body=%ring
  %next.2 = s32[] fusion(%state), kind=kLoop, calls=%nothing
  ROOT %tuple.3 = (s32[], f32[4]{0}) tuple(%next.2, %while.1)
}

ENTRY %main (param.1: f32[4]) -> f32[4] {
  %param.1 = f32[4]{0} parameter(0)
  %while.2 = (s32[], f32[4]{0}) while(%param.1), condition=%layers_condition, body=%layers
  %all-reduce.1 = (f32[4]{0}, pred[2]{0}, /*index=2*/f32[]) all-reduce(%param.1), channel_id=1
  ROOT %result = f32[4]{0} get-tuple-element(%while.2), index=1
}
"""


def test_loops_multiply_and_pieces_count_once():
    assert read_collectives(PROGRAM) == {
        "all-gather": Traffic(28, 28 * 16 * 8 * 2),
        "all-reduce": Traffic(1, 4 * 4 + 2 + 4),
        "collective-permute": Traffic(28 * 4, 28 * 4 * 4 * 4),
    }


def test_a_program_of_one_chip():
    entry = PROGRAM[PROGRAM.index("ENTRY") :]
    quiet = "\n".join(line for line in entry.splitlines() if "channel_id" not in line)
    assert read_collectives(quiet.replace("while(", "copy(")) == {}
