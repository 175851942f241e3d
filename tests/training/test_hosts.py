"""`accelerate launch` with the configurations of recipes/accelerate, and two hosts against one process."""

import os
import socket

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig
from runs import ROOT, TINY, launch
from safetensors.torch import load_file

import train
from modeling_wbc import WBCConfig, WBCForImageClassification

CONFIGURATIONS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_a_configuration(path):
    config = ClusterConfig.from_yaml_file(path)
    assert config.num_processes % config.num_machines == 0
    assert (config.num_machines > 1) == (path.stem == "two_hosts")
    assert config.use_cpu == (path.stem == "cpu")
    assert config.distributed_type.value == ("MULTI_GPU" if config.num_processes > 1 else "NO")


@pytest.fixture
def start(tmp_path):
    """A model whose loss is the mean over the images, so that its gradient is that of both halves of a batch."""
    torch.manual_seed(0)
    model = WBCForImageClassification(WBCConfig(**TINY, mining="none", center_loss_weight=0))
    model.save_pretrained(tmp_path / "start")
    return str(tmp_path / "start")


def test_two_hosts_learn_what_one_process_does(data, start, tmp_path):
    """Two hosts with 4 images each, and one process that accumulates the gradients of twice 4 images."""
    common = [
        *("--do_train", "--dataset_name", data, "--model_name_or_path", start, "--validation_split", "0"),
        *("--max_steps", "3", "--per_device_train_batch_size", "4", "--learning_rate", "0.05", "--use_cpu"),
        *("--augment", "strong", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no"),
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [
        launch(
            *("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "recipes/accelerate/two_hosts.yaml")),
            *("--num_processes", "2", "--mixed_precision", "no", "--machine_rank", str(rank)),
            *("--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
            *("train.py", *common, "--output_dir", str(tmp_path / "two")),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    train.main([*common, "--output_dir", str(tmp_path / "one"), "--gradient_accumulation_steps", "2"])
    for host in hosts:
        printed, _ = host.communicate(timeout=900)
        assert host.returncode == 0, printed
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    learnt = dict(WBCForImageClassification.from_pretrained(start).named_parameters())
    for name in learnt:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    assert max(float((one[name] - weight.detach()).abs().max()) for name, weight in learnt.items()) > 1e-3
