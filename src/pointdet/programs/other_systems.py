# SPDX-License-Identifier: Apache-2.0
"""Options of other systems, such as official CenterNet and mmdetection, and what to give instead.

A program that has an option of the same name uses its own. docs/migration.md has the whole table.
"""

from __future__ import annotations

UNNEEDED = "leave it out; {}"


def _set(*settings: str) -> str:
    return " ".join(f"--set {setting}" for setting in settings)


CONFIGURED = "the configuration contains it: choose one with --train-config, or change its key {} with --set"
RANKS = "start one process per GPU: mpirun -n 2 ..., see docs/training.md"
INSTEAD = {
    # Files and folders
    "--config_file": "give --train-config FILE, a configuration of PointDet",
    "--load_model": "convert the file with convert_weights.py FILE FOLDER, and give --checkpoint FOLDER",
    "--trained_model_path": "give --checkpoint FILE",
    "--trained_model_dir": "give test.py --checkpoint_dir FOLDER",
    "--resume-from": "a run of PointDet continues with --resume or --iter N; fine-tune from a file with --checkpoint FILE",
    "--exp_id": "name the run folder with -o FOLDER",
    "--save_dir": "name the run folder with -o FOLDER",
    "--work-dir": "name the run folder with -o FOLDER",
    "--log_name": "name the run folder with -o FOLDER",
    "--root_dir": "name the run folder with -o FOLDER, and the data with --data_dir",
    "--out": "test.py always writes detections.json; name its folder with --save_dir FOLDER",
    "--show-dir": "give test.py --debug N, which draws N images to --save_dir FOLDER",
    "--show": "give test.py --debug N, which draws N images to --save_dir FOLDER",
    "--wait-time": UNNEEDED.format("test.py --debug N writes pictures and opens no window"),
    # Network and data
    "--arch": CONFIGURED.format("model.arch"),
    "--num_layers": CONFIGURED.format("model.num_layers"),
    "--dataset": CONFIGURED.format("dataset.dataset"),
    "--head_conv": f"{_set('model.head_channels=64')}; heads without a 3x3 convolution (0) do not exist",
    "--input_res": _set("input.height=512", "input.width=512"),
    "--input_h": _set("input.height=512"),
    "--input_w": _set("input.width=512"),
    "--img_size": _set("input.height=511", "input.width=511"),
    "--trainval": "list both files and folders: "
    "--set dataset.train.annotations=[a.json,b.json] --set dataset.train.images=[a,b]",
    "--split_ratio": "write a smaller annotation file and name it in dataset.train.annotations",
    "--not_rand_crop": _set("augment.crop=false"),
    "--shift": _set("augment.shift=0.1"),
    "--scale": _set("augment.scale=0.4"),
    "--flip": _set("augment.flip=0.5"),
    "--no_color_aug": _set("augment.colour=0"),
    "--rotate": UNNEEDED.format("the older programs accept it and do not use it"),
    # Training
    "--lr": _set("train.learning_rate.base_lr=1.25e-4"),
    "--lr_step": _set("train.learning_rate.scheduler_type=step", "train.learning_rate.lr_steps=[90,120]"),
    "--num_epochs": _set("train.num_epochs=140"),
    "--num_iters": f"{_set('train.num_epochs=1')}; the length is in epochs, of images / batch steps",
    "--batch_size": f"{_set('train.batch_size=32')}, the images of each rank",
    "--master_batch_size": UNNEEDED.format("every rank has train.batch_size images"),
    "--num_workers": _set("train.workers=4"),
    "--threads": _set("train.workers=4"),
    "--seed": _set("train.seed=317"),
    "--weight_decay": _set("train.weight_decay=1e-4"),
    "--mixed_precision": _set("mixed_precision.mixed_precision=true"),
    "--amp": _set("mixed_precision.mixed_precision=true", "mixed_precision.channel_last=true"),
    "--channel_last": _set("mixed_precision.channel_last=true"),
    "--val_intervals": _set("train.val_intervals=5"),
    "--val_interval": _set("train.val_intervals=5"),
    "--save_intervals": _set("train.save_intervals=5"),
    "--save_all": _set("train.save_intervals=5"),
    "--log_interval": _set("train.log_intervals=100"),
    "--print_iter": _set("train.log_intervals=20"),
    "--hide_data_time": UNNEEDED.format("the log has one percentage of waiting for data"),
    "--train_monitor_interval": _set("train.log_intervals=1"),
    "--eval_monitor_interval": UNNEEDED.format("every validation is in the journal"),
    "--metric": f"{_set('train.validation=[loss,ap]')}: the first one selects `best`",
    "--disable_val_calc_map": _set("train.validation=[loss]"),
    "--test": "run test.py with --checkpoint RUN/checkpoints/best",
    "--not_cuda_benchmark": UNNEEDED.format("NNabla chooses the algorithms of cuDNN"),
    "--dist": RANKS,
    "--local_rank": RANKS,
    "--launcher": RANKS,
    "--auto-scale-lr": f"{_set('train.learning_rate.base_lr=5e-4')}, the rate for the whole batch of all ranks",
    "--cfg-options": "override each key with --set section.key=value",
    # Loss and heads
    "--hm_weight": _set("detector.heatmap_weight=1"),
    "--wh_weight": _set("detector.size_weight=0.1"),
    "--off_weight": _set("detector.offset_weight=1"),
    "--reg_loss": f"{_set('detector.regression_loss=smooth_l1')} for sl1; l1 is the default, and l2 fails in the older code",
    "--cat_spec_wh": f"{_set('detector.size_per_class=true')}; files with such heads are recognised",
    "--dense_wh": UNNEEDED.format(
        "sizes are trained at the centres only; files trained with it can be converted as others"
    ),
    "--norm_wh": UNNEEDED.format("it has no effect in the older code"),
    "--mse_loss": UNNEEDED.format("it fails in the older code; the heatmap has its focal loss"),
    "--not_reg_offset": UNNEEDED.format("the offset head stays; files without one are recognised"),
    "--reg_offset": UNNEEDED.format(
        "the offset head is always trained; it switches it off in the older code, which then fails"
    ),
    # Test
    "--flip_test": "give --test_flip",
    "--tta": "give --test_flip, and --test_scales 0.5,0.75,1,1.25,1.5 for several scales",
    "--suffix": "give the settings of that file: --test_scales 0.5,0.75,1,1.25,1.5 --set detector.merge_exponent=10",
    "--fix_res": UNNEEDED.format("it is the default; --keep_res is the alternative"),
    "--nms": _set("test.soft_nms=true"),
    "--topk": _set("detector.top_k=100"),
    "--ae_threshold": _set("detector.tag_distance=0.5"),
    "--nms_threshold": f"{_set('detector.nms_threshold=0.5')}; it acts with detector.suppression=linear or hard",
    "--w_exp": _set("detector.merge_exponent=10"),
    "--not_prefetch_test": UNNEEDED.format("threads always read the images"),
    "--debugger_theme": UNNEEDED.format("there is one style of drawing"),
    "--eval_oracle_hm": UNNEEDED.format(
        "main.py --preview N shows the boxes that are decoded from the targets"
    ),
    "--eval_oracle_wh": UNNEEDED.format(
        "main.py --preview N shows the boxes that are decoded from the targets"
    ),
    "--eval_oracle_offset": UNNEEDED.format(
        "main.py --preview N shows the boxes that are decoded from the targets"
    ),
    "--debug": "give --debug to test.py or demo.py; main.py --preview N draws training images",
    "--K": _set("test.max_detections=100"),
    "--vis_thresh": _set("test.vis_thresh=0.3"),
    "--keep_res": _set("test.keep_resolution=true"),
    "--test_scales": _set("test.scales=[0.5,1,1.5]"),
}
