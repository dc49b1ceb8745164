"""The forty models that continuous integration runs: small ones that differ from each other."""

_TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit_b_16", "lraspp_mobilenet_v3_large",
    "r3d_18", "raft_small",
)  # fmt: skip
_TIMM = (
    "test_byobnet", "test_convnext", "test_vit", "test_resnet", "test_nfnet", "test_mambaout",
    "test_coatnet", "starnet_s050", "dla46x_c", "mobilevit_xxs", "edgenext_xx_small",
    "ese_vovnet19b_slim_dw", "efficientvit_m0", "repghostnet_050",
)  # fmt: skip
_TRANSFORMERS = (
    "bert", "gpt2", "llama", "t5_encoder", "clip", "whisper_encoder", "segformer", "detr",
)  # fmt: skip
SLICE = (
    *(f"torchvision/{name}" for name in _TORCHVISION),
    *(f"timm/{name}" for name in _TIMM),
    *(f"transformers/{name}" for name in _TRANSFORMERS),
)
assert len(SLICE) == 40
