import torch
from torch import nn

from stages.training import Average


def test_it_is_the_recursion_written_out():
    model = nn.Linear(2, 1, bias=False)
    average = Average(model, decay=0.25)
    expected = model.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            model.weight += step + 1
        average.update(model, step)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert decay == 0.25  # the warm-up was left behind
    torch.testing.assert_close(average.state_dict()["weight"], expected)
    trained = model.weight.detach().clone()
    average.copy_to(model)
    torch.testing.assert_close(model.weight.detach(), expected)
    assert not torch.equal(trained, model.weight)


def test_a_saved_average_is_taken_up_in_place():
    first, second = Average(nn.Linear(2, 2), 0.9), Average(nn.Linear(2, 2), 0.9)
    second.load_state_dict(first.state_dict())
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight)
        assert second.state_dict()[name] is not weight


def test_statistics_of_batch_norms_are_averaged_where_asked():
    norm = nn.BatchNorm1d(2)
    plain, whole = Average(norm, 0.9), Average(norm, 0.9, norms=True)
    norm.running_mean += 10
    whole.update(norm, 0)  # of decay 0.1
    assert "running_mean" not in plain.state_dict()
    whole.copy_to(norm)
    assert norm.running_mean.tolist() == [9, 9]
    assert norm.num_batches_tracked == 0
