"""Moving factors that a format applies beside its tensors into the tensors. Each returns a new form.

A factor that stays outside is the most common fault in this field; folded in, it cannot be forgotten.
"""

from __future__ import annotations

from dataclasses import replace

from glasshouse.plugins.saes.form import CommonForm


def fold_input_scale(form: CommonForm, scale: float) -> CommonForm:
    """For an SAE that was trained on x·scale: codes of x stay what they were, reconstructions come back in x's scale.

    (x·s − b_dec)@W_enc = (x − b_dec/s)@(s·W_enc), and what is decoded is divided by s. As SAELens does it for
    `expected_average_only_in`.
    """
    return replace(form, w_enc_df=form.w_enc_df * scale, w_dec_fd=form.w_dec_fd / scale, b_dec_d=form.b_dec_d / scale)


def fold_norm_factor(form: CommonForm, factor: float) -> CommonForm:
    """For an SAE that was trained on x/factor: every bias and threshold times the factor, the matrices as they are.

    Codes grow by the factor with their input. As dictionary_learning does it at the end of a run.
    """
    biases = ("b_enc_f", "b_dec_d", "threshold_f", "b_gate_f", "b_mag_f")
    present = {name: getattr(form, name) for name in biases}
    return replace(form, **{name: bias * factor for name, bias in present.items() if bias is not None})


def fold_decoder_norm(form: CommonForm) -> CommonForm:
    """Decoder rows of norm 1, and their norms multiplied onto the encoder; reconstructions stay as they are.

    A feature whose decoder row is zero becomes silent: it adds nothing in either way.
    """
    norm_f = form.w_dec_fd.norm(dim=1)
    safe_f = norm_f.where(norm_f > 0, 1.0)
    return replace(
        form,
        w_enc_df=form.w_enc_df * norm_f,
        b_enc_f=form.b_enc_f * norm_f,
        w_dec_fd=form.w_dec_fd / safe_f[:, None],
    )
