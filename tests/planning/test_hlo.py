"""Collectives and the work that overlaps them, parsed from short programs in XLA's text format."""

# ruff: noqa: E501 (XLA's lines are long)

from jaxcnn.planning.hlo import cycles, layer, read_transfers

# In XLA:TPU's format (libtpu 0.0.42): fc7's gradient is sent while two convolutions run; the metrics and a
# bias follow as one synchronous tuple.
TPU = """\
HloModule jit_step, is_scheduled=true

%start (p: f32[4096,1000]) -> (f32[4096,1000], u32[]) {
  %p = f32[4096,1000]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.1 = f32[4096,1000]{1,0:T(8,128)} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/psum"}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.1 = (f32[4096,1000]{1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%all-reduce.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (p.1: f32[4096,1000], q: bf16[8,8,64]) -> (f32[3,3,64,64], f32[4096,1000]) {
  %p.1 = f32[4096,1000]{1,0:T(8,128)} parameter(0)
  %all-reduce.2 = f32[4096,1000]{1,0:T(8,128)S(1)} all-reduce(%p.1), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"17"}}
  %convolution.1 = f32[3,3,64,64]{3,2,1,0:T(8,128)} convolution(%q, %q), dim_labels=b01f_01io->b01f
}

%done (p.2: f32[4096,1000]) -> f32[4096,1000] {
  %p.2 = f32[4096,1000]{1,0:T(8,128)} parameter(0)
  %all-reduce.3 = f32[4096,1000]{1,0:T(8,128)} all-reduce(%p.2), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"18"}}
  ROOT %custom-call.2 = f32[4096,1000]{1,0:T(8,128)} custom-call(%all-reduce.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main.1 (a: bf16[8,4096]) -> f32[4096,1000] {
  %fusion.0 = f32[4096,1000]{1,0:T(8,128)} fusion(%a), kind=kOutput, calls=%wgrad, metadata={op_name="jit(step)/transpose(jvp(VGG))/VGG.forward/fc7/dot_general"}, backend_config={"window_config":{"estimated_cycles":"400"}}
  %copy.1 = f32[4096,1000]{1,0:T(8,128)S(1)} copy(%fusion.0)
  %async-collective-start = (f32[4096,1000]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%copy.1), kind=kCustom, calls=%start
  %get-tuple-element.1 = f32[4096,1000]{1,0:T(8,128)} get-tuple-element(%async-collective-start), index=0
  %fusion.1 = (f32[3,3,64,64]{3,2,1,0:T(8,128)}, f32[4096,1000]{1,0:T(8,128)}) fusion(%get-tuple-element.1, %b), kind=kCustom, calls=%async_collective_fusion.1, metadata={op_name="jit(step)/transpose(jvp(VGG))/VGG.forward/conv2_1/conv_general_dilated"}, backend_config={"window_config":{"estimated_cycles":"900"}}
  %fusion.2 = bf16[8,8,64]{2,1,0:T(8,128)} fusion(%b), kind=kLoop, calls=%elementwise, backend_config={"window_config":{"estimated_cycles":"50"}}
  %async-collective-done = f32[4096,1000]{1,0:T(8,128)} fusion(%get-tuple-element.1), kind=kCustom, calls=%done
  %reduce_sum.1 = f32[64]{0:T(128)} reduce(%fusion.2, %zero), dimensions={0,1}, metadata={op_name="jit(step)/transpose(jvp(VGG))/VGG.forward/conv2_1/reduce_sum"}
  %all-reduce.4 = (f32[64]{0:T(128)}, f32[]{:T(128)}) all-reduce(%reduce_sum.1, %loss), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add, metadata={op_name="jit(step)/psum"}
}
"""

# In XLA:GPU's format: a -start, work, a -done.
GPU = """\
ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %fusion.0 = f32[1024]{0} fusion(%a), kind=kLoop, calls=%f, metadata={op_name="jit(step)/VGG.forward/fc6/dot_general"}
  %all-reduce-start = f32[1024]{0} all-reduce-start(%fusion.0), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add
  %fusion.1 = f32[64]{0} fusion(%a), kind=kLoop, calls=%g, metadata={op_name="jit(step)/VGG.forward/conv5_3/mul"}
  %all-reduce-done = f32[1024]{0} all-reduce-done(%all-reduce-start)
  %fusion.2 = f32[64]{0} fusion(%a), kind=kLoop, calls=%g
  %all-gather-start = (f32[128]{0}, f32[1024]{0}) all-gather-start(%fusion.2), replica_groups=[1,8]<=[8], dimensions={0}
  %all-gather-done = f32[1024]{0} all-gather-done(%all-gather-start)
}
"""


def test_an_asynchronous_all_reduce_is_one_transfer_with_its_carriers():
    whole, tuple_of_small = read_transfers(TPU)
    assert whole.asynchronous
    assert whole[:4] == ("all-reduce", 4096 * 1000 * 4, "f32", 4)
    assert whole.what.endswith("VGG.forward/fc7/dot_general")  # traced through the copy
    assert [(c.name.split("/")[-2], c.cycles) for c in whole.carriers] == [("conv2_1", 900)]
    assert whole.cycles == 900
    assert not tuple_of_small.asynchronous
    assert tuple_of_small.bytes == 65 * 4
    assert tuple_of_small.what.endswith("conv2_1/reduce_sum")
    assert tuple_of_small.carriers == ()


def test_cycles_count_the_entry_computation():
    assert cycles(TPU) == 400 + 900 + 50
    assert cycles(GPU) == 0


def test_pairs_of_start_and_done():
    reduced, gathered = read_transfers(GPU)
    assert reduced.asynchronous
    assert reduced.devices == 8
    assert reduced.what.endswith("fc6/dot_general")
    assert [c.name for c in reduced.carriers] == ["jit(step)/VGG.forward/conv5_3/mul"]
    assert gathered[:2] == ("all-gather", 4096)
    assert gathered.asynchronous
    assert gathered.carriers == ()  # no work in between


def test_a_program_without_collectives():
    assert (
        read_transfers("ENTRY %main.1 (a: f32[8]) -> f32[8] {\n  %b = f32[8]{0} add(%a, %a)\n}\n")
        == []
    )


def test_names_of_layers():
    run = "jit(step)/shard_map/transpose(jvp(GoogLeNet))/GoogLeNet.forward"
    assert layer(f"{run}/inception_3a/conv3x3/conv_general_dilated") == "inception_3a/conv3x3"
    assert layer("jit(step)/shard_map/psum") == "psum"
    assert layer("fusion.12") == "fusion.12"


def test_groups_of_devices_in_every_notation():
    """Lists, iota tiles, and since jaxlib 0.12 axes of a mesh: two groups of four of eight devices."""
    for groups, devices in (
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,4]<=[8]", 4),
        ("mesh['data'=2,'model'=4] {'model'}", 4),
        ("mesh['data'=2,'model'=4] {'data','model'}", 8),
    ):
        line = (
            f"  %x = f32[2]{{0}} reduce-scatter(%p), channel_id=1, replica_groups={groups}, dim=0"
        )
        (found,) = read_transfers(f"ENTRY %main.1 (p: f32[8]) -> f32[2] {{\n{line}\n}}\n")
        assert (found.devices, found.bytes) == (devices, 8 * devices)
