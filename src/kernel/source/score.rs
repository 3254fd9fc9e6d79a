//! Modifiers of scores, and how gradients go back through them.

use super::{Fill, Part, Source};
use crate::kernel::key::{PointSlope, RowAccess};
use crate::mask::slots::{ALIBI_SLOT, ALIBI_STRIDE_SLOT, SINKS_SLOT};
use crate::score::{BIAS, LearnedText, MODIFIERS, ScoreText};
use crate::tensor::dtype::Dtype;

impl Source {
    /// The parts of the score modifiers, and `modified_score`, which applies them in their order.
    pub(super) fn score(&mut self, score: &ScoreText, bias: Dtype) {
        for modifier in score.modifiers() {
            if modifier.name == BIAS.name {
                self.reads(RowAccess::Scalar, bias, "bias", false);
            }
            let (file, text) = modifier.shader;
            self.part(&Part { file, text });
        }
        let mut body = modifiers(score);
        if let Some((text, name)) = &score.custom {
            self.line(text);
            body += &format!("    score = {name}(score, b, h, q_idx, kv_idx);\n");
        }
        self.title("generated: kernel::source");
        self.constant("ALIBI_SLOT", ALIBI_SLOT);
        self.constant("ALIBI_STRIDE_SLOT", ALIBI_STRIDE_SLOT);
        self.constant("SINKS_SLOT", SINKS_SLOT);
        self.line(&format!(
            "const MODIFIED: bool = {};\n\n\
             fn modified_score(product: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{\n\
             {body}    return score;\n}}\n",
            score.modifies()
        ));
    }

    /// Which weights are dropped, where some are, and the part by which a kernel drops its own.
    pub(super) fn dropout(&mut self, own: Option<Part>) {
        let Some(slot) = self.dropout else { return };
        self.title("generated: kernel::source");
        self.constant("DROPOUT_SLOT", slot);
        self.part(&shader!("score/dropout"));
        if let Some(own) = own {
            self.part(&own);
        }
    }

    /// The user's function and one of its derivatives at single points, nothing else.
    pub(super) fn score_points(&mut self, score: &ScoreText, slope: PointSlope) {
        let Some((text, name)) = &score.custom else { return };
        self.line(text);
        let gradient = match slope {
            PointSlope::Score => score.custom_gradient.as_deref().unwrap_or_default(),
            PointSlope::Buffer(number) => &score.learned[number].gradient,
            PointSlope::Element(number) => {
                let LearnedText { index, gradient, len_slot } = &score.learned[number];
                // As `gradient_check::weight`.
                self.line(&format!(
                    "fn weighted_slope(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{\n    \
                     let element = min({index}(b, h, q_idx, kv_idx), slot_u32({len_slot}u) - 1u);\n    \
                     let weight = f32(((element * 0x9e3779b1u) >> 24u) + 1u) / 256.0;\n    \
                     return {gradient}(grad, score, b, h, q_idx, kv_idx) * weight;\n}}\n"
                ));
                "weighted_slope"
            }
        };
        let values = [Fill::ScoreMod(name), Fill::ScoreGradient(gradient)];
        self.template(&shader!("score/points"), &values);
    }

    /// What the kernel for the gradients of a score function's buffers asks for: a `score_gradient` that goes back no further than to
    /// what the function returned, and tells the score that it got; and what a cell adds to which element.
    pub(super) fn learned(&mut self, score: &ScoreText) {
        let lens: Vec<String> = score
            .learned
            .iter()
            .map(|learned| format!("slot_u32({}u)", learned.len_slot))
            .collect();
        let mut shares = String::new();
        for (number, LearnedText { index, gradient, .. }) in score.learned.iter().enumerate() {
            let len = &lens[number];
            let first = lens[..number].iter().map(|len| format!("{len} + ")).collect::<String>();
            shares += &format!(
                "    if (buffer == {number}u) {{\n        \
                 let element = {first}min({index}(b, h, q_idx, kv_idx), {len} - 1u);\n        \
                 return ElementShare(element, {gradient}(grad, score, b, h, q_idx, kv_idx));\n    }}\n"
            );
        }
        self.title("generated: kernel::source");
        self.constant("LEARNED", lens.len());
        self.line(&format!(
            "fn score_gradient(gradient: f32, product: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> vec2<f32> {{\n\
             {}    return vec2<f32>(gradient, score);\n}}\n\n\
             fn learned_elements() -> u32 {{\n    return {};\n}}\n\n\
             fn learned_share(buffer: u32, grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> ElementShare {{\n\
             {shares}    return ElementShare(0u, 0.0);\n}}\n",
            modifiers(score),
            lens.join(" + ")
        ));
    }

    /// `score_gradient`: a modified score's gradient, taken back to where the bias is added and to the scaled product.
    pub(super) fn score_gradient(&mut self, score: &ScoreText) {
        let mut body =
            "    let scaled = product * params.scale_abs;\n    var upstream = gradient;\n"
                .to_owned();
        if let Some(name) = &score.custom_gradient {
            body += &modifiers(score);
            body += &format!("    upstream = {name}(upstream, score, b, h, q_idx, kv_idx);\n");
        }
        for modifier in MODIFIERS.into_iter().rev() {
            if modifier.name == BIAS.name {
                body += "    let of_bias = upstream;\n";
            }
            if let Some(slope) = modifier.wgsl_slope.filter(|_| (modifier.is_in)(score)) {
                body += &format!("    upstream *= {slope};\n");
            }
        }
        self.title("generated: kernel::source");
        self.line(&format!(
            "fn score_gradient(gradient: f32, product: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> vec2<f32> {{\n\
             {body}    return vec2<f32>(upstream, of_bias);\n}}\n"
        ));
    }
}

/// What the crate's own modifiers do to a product, as WGSL that leaves it in `score`.
fn modifiers(score: &ScoreText) -> String {
    let mut body = "    var score = product * params.scale_abs;\n".to_owned();
    for modifier in score.modifiers() {
        body += &format!("    score = {};\n", modifier.wgsl);
    }
    body
}
