from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import INTRINSICS, SEVEN_SCENES, edit_poses, open_capture, room_frames, write_capture
from scenelift.errors import DataError
from scenelift.scenes.rgbd import cam_from_world, file_pose

CONVENTIONS = ("cam_to_world", "world_to_cam", "cam_to_world_opengl", "world_to_cam_opengl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "room", room_frames(5))


@pytest.mark.parametrize("naming", ["scannet", "7scenes"])
def test_frames_come_back_as_they_were_written(tmp_path, naming):
    written = room_frames(4)
    source = open_capture(write_capture(tmp_path / "my room", written, naming=naming))
    assert source.names("train") == source.names("val") == (source.name,)
    assert source.truth is None
    assert source.classes is None
    frames = source.frames()
    assert len(frames) == 4
    for have, want in zip(frames, written, strict=True):
        assert have.scene == source.name
        assert np.array_equal(have.image, want.image)
        assert np.allclose(have.intrinsics, want.intrinsics)
        assert np.allclose(have.cam_from_world, want.cam_from_world, atol=1e-12)
        assert np.abs(have.depth_m - want.depth_m).max() <= 0.00051


@pytest.mark.parametrize("settings", [{}, {"max_width": 50}])
def test_an_image_alone_is_that_of_the_frame(folder, settings):
    read_first = open_capture(folder, **settings).frames()
    alone = [read_first.image(name) for name in read_first.names]
    for image, frame in zip(alone, open_capture(folder, **settings).frames(), strict=True):
        np.testing.assert_array_equal(image, frame.image)


def test_an_image_alone_has_to_have_the_size_of_the_others(folder):
    color = sorted((folder / "color").iterdir())[2]
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(color)
    frames = open_capture(folder).frames()
    with pytest.raises(DataError, match="as in the first frame"):
        frames.image(frames.names[2])


def test_one_scene_named_after_the_folder(folder):
    source = open_capture(folder)
    assert source.scene("room").name == "room"
    assert source.frame_count("room") == len(source.scene("room").frames) > 0
    with pytest.raises(DataError, match="expected scene 'room'"):
        source.scene("kitchen")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    source = open_capture(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nothing there; check the path"):
        source.names("train")


def test_seven_scenes_sequences_are_one_capture(tmp_path):
    for sequence in ("seq-01", "seq-02"):
        write_capture(tmp_path / "chess" / sequence, room_frames(2), naming="7scenes")
        (tmp_path / "chess" / sequence / "intrinsics.txt").unlink()
    with pytest.raises(DataError, match=r"write .*intrinsics\.txt .*585 0 320"):
        open_capture(tmp_path / "chess").names("train")
    np.savetxt(tmp_path / "chess" / "camera-intrinsics.txt", INTRINSICS)
    names = open_capture(tmp_path / "chess").frames().names
    assert names == ("seq-01-000000", "seq-01-000001", "seq-02-000000", "seq-02-000001")


def test_frames_are_in_natural_order_and_stride_takes_every_nth(tmp_path):
    source = write_capture(tmp_path / "room", room_frames(12))
    (source / "color" / ".DS_Store").write_bytes(b"x")
    (source / "color" / "notes.md").write_bytes(b"x")
    assert open_capture(source).frames().names == tuple(str(i) for i in range(12))
    assert open_capture(source, stride=5).frames().names == ("0", "5", "10")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_pose_conventions_are_read_and_inverted(tmp_path, convention):
    frames = room_frames(3)
    folder = write_capture(tmp_path / "room", frames)
    for frame in frames:
        np.savetxt(folder / "pose" / f"{frame.name}.txt", file_pose(frame.cam_from_world, convention))
    for have, want in zip(open_capture(folder, pose_convention=convention).frames(), frames, strict=True):
        assert np.allclose(have.cam_from_world, want.cam_from_world, atol=1e-12)


def test_opengl_camera_axes_are_up_and_backward():
    # A camera at the world's origin, with the world's axes, in OpenGL looks along -z with y up.
    pose = cam_from_world(np.eye(4), "cam_to_world_opengl")
    assert np.allclose(pose @ [0.0, 1.0, -2.0, 1.0], [0.0, -1.0, 2.0, 1.0])


def test_nearly_rigid_poses_become_rigid_and_bent_ones_are_refused(folder):
    edit_poses(folder, lambda pose: pose + np.pad(np.full((3, 3), 2e-4), ((0, 1), (0, 1))))
    for frame in open_capture(folder).frames():
        rotation = frame.cam_from_world[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    edit_poses(folder, lambda pose: pose @ np.diag([1.1, 1.1, 1.1, 1.0]))
    with pytest.raises(DataError, match=r"rigid .* found 5 of 5 .*pose/0\.txt, .* and 2 more"):
        open_capture(folder).frames()


def test_mirrored_pose_is_refused(folder):
    edit_poses(folder, lambda pose: pose @ np.diag([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(DataError, match="mirroring"):
        open_capture(folder).frames()


def test_lost_frames_are_an_error_or_left_out(folder):
    (folder / "pose" / "3.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (folder / "pose" / "1.txt").write_text("nan nan nan nan\n" * 4)
    with pytest.raises(DataError, match=r"infinity in 2 of 5: pose/1\.txt, pose/3\.txt; .*skip_lost_frames"):
        open_capture(folder).scene("room")
    source = open_capture(folder, skip_lost_frames=True)
    assert source.frames().names == ("0", "2", "4")
    assert source.lost_frames == ("1", "3")
    edit_poses(folder, lambda pose: np.full((4, 4), np.nan))
    with pytest.raises(DataError, match="found all 5 lost"):
        open_capture(folder, skip_lost_frames=True).frames()


@pytest.mark.skipif(not SEVEN_SCENES.is_dir(), reason="real frames are absent: ../shared/data/sevenscenes")
def test_seven_scenes():
    source = open_capture(SEVEN_SCENES, max_width=160, stride=5)
    scene = source.scene("sevenscenes")
    assert scene.frames.names[:2] == ("000000", "000165")
    frame = scene.frames[0]
    assert frame.image.shape == (120, 160, 3)
    assert frame.depth_m.max() < 10
    assert 0.7 < (frame.depth_m > 0).mean() < 1
    extent = np.ptp(scene.points_world, axis=0)
    assert (extent > 1).all()
    assert (extent < 9).all()
