//! Score functions at random: a factor of each row and what is added, read from buffers that have gradients.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{AuxData, Shape};

const CELL: &str = "b: u32, h: u32, q_idx: u32, kv_idx: u32";

/// Which element of a buffer a cell reads; those beyond its end are the last.
#[derive(Debug, Clone, Copy)]
enum Index {
    /// All cells the same one.
    First,
    Head,
    Row,
    Key,
    Relative(u32),
    Scattered,
}

impl Index {
    fn wgsl(self, shape: &Shape) -> String {
        let (heads, rows) = (shape.num_heads, shape.seq_len_q);
        match self {
            Self::First => "0u".to_owned(),
            Self::Head => format!("b * {heads}u + h"),
            Self::Row => format!("(b * {heads}u + h) * {rows}u + q_idx"),
            Self::Key => "kv_idx".to_owned(),
            Self::Relative(far) => {
                format!("u32(clamp(i32(kv_idx) - i32(q_idx) + {far}, 0, {}))", 2 * far)
            }
            Self::Scattered => {
                "(b * 2654435769u + h * 104729u + q_idx * 1299709u + kv_idx * 15485863u) >> 20u"
                    .to_owned()
            }
        }
    }

    fn of(self, shape: &Shape, [b, h, q_idx, kv_idx]: [usize; 4]) -> usize {
        let hash = |at: usize, by: u32| (at as u32).wrapping_mul(by);
        match self {
            Self::First => 0,
            Self::Head => b * shape.num_heads + h,
            Self::Row => (b * shape.num_heads + h) * shape.seq_len_q + q_idx,
            Self::Key => kv_idx,
            Self::Relative(far) => {
                let far = far as usize;
                (kv_idx + far).saturating_sub(q_idx).min(2 * far)
            }
            Self::Scattered => {
                let sum = [(h, 104_729), (q_idx, 1_299_709), (kv_idx, 15_485_863)]
                    .into_iter()
                    .fold(hash(b, 2_654_435_769), |sum, (at, by)| sum.wrapping_add(hash(at, by)));
                (sum >> 20) as usize
            }
        }
    }
}

/// What an element is multiplied with before it is added.
#[derive(Debug, Clone, Copy)]
enum Coefficient {
    Constant(f32),
    /// By the key's index.
    OfKey,
}

impl Coefficient {
    fn wgsl(self) -> String {
        match self {
            Self::Constant(value) => format!("{value:?}"),
            Self::OfKey => "f32(kv_idx) / 64.0".to_owned(),
        }
    }

    fn of(self, kv_idx: usize) -> f64 {
        match self {
            Self::Constant(value) => value.into(),
            Self::OfKey => kv_idx as f64 / 64.0,
        }
    }
}

/// A buffer whose elements are added.
#[derive(Debug)]
struct Added {
    values: Vec<f32>,
    index: Index,
    coefficient: Coefficient,
}

/// A score function, as the device has it and in f64.
#[derive(Debug)]
pub(super) struct Learned {
    shape: Shape,
    /// Powers of two, so that a query times its factor is exact.
    factor: Option<(Vec<f32>, Index)>,
    added: Vec<Added>,
}

impl Learned {
    pub(super) fn random(shape: &Shape, with_factor: bool, rng: &mut SmallRng) -> Self {
        let len = |index: Index, rng: &mut SmallRng| {
            let all = match index {
                Index::First => 1,
                Index::Head => shape.batch * shape.num_heads,
                Index::Row => shape.batch * shape.num_heads * shape.seq_len_q,
                Index::Key => shape.seq_len_kv,
                Index::Relative(far) => 2 * far as usize + 1,
                Index::Scattered => 4096,
            };
            // Some are too short, some longer than what is read.
            (all * *[1, 1, 1, 2].choose(rng).unwrap() / *[1, 1, 2].choose(rng).unwrap()).max(1)
        };
        let factor = with_factor.then(|| {
            let index = *[Index::First, Index::Head, Index::Row].choose(rng).unwrap();
            let values = (0..len(index, rng)).map(|_| *[0.5, 1.0, 2.0, -1.0].choose(rng).unwrap());
            (values.collect(), index)
        });
        let count = rng.random_range(usize::from(factor.is_none())..=3);
        let added = (0..count).map(|_| {
            let far = rng.random_range(0..40);
            let index = *[
                Index::First,
                Index::Head,
                Index::Row,
                Index::Key,
                Index::Relative(far),
                Index::Scattered,
            ]
            .choose(rng)
            .unwrap();
            let coefficients =
                [Coefficient::Constant(1.0), Coefficient::Constant(-0.5), Coefficient::OfKey];
            let values = (0..len(index, rng)).map(|_| rng.random_range(-1.0..1.0)).collect();
            Added { values, index, coefficient: *coefficients.choose(rng).unwrap() }
        });
        let added = added.collect();
        Self { shape: *shape, factor, added }
    }

    /// The buffers that have gradients, by name.
    pub(super) fn buffers(&self) -> Vec<(String, &[f32])> {
        let factor = self.factor.iter().map(|(values, _)| ("factor".to_owned(), &values[..]));
        let added = self.added.iter().enumerate();
        factor.chain(added.map(|(at, added)| (format!("added{at}"), &added.values[..]))).collect()
    }

    pub(super) fn function(&self) -> WgslFunction {
        let mut text = String::new();
        let mut describe = |name: &str, index: Index, derivative: String| {
            let index = index.wgsl(&self.shape);
            text += &format!(
                "fn {name}_index({CELL}) -> u32 {{ return {index}; }}\n\
                 fn {name}_grad(grad: f32, score: f32, {CELL}) -> f32 {{ return {derivative}; }}\n"
            );
        };
        let read = |name: &str| format!("{name}({name}_index(b, h, q_idx, kv_idx))");
        let mut factor = "1.0".to_owned();
        if let Some((_, index)) = &self.factor {
            describe("factor", *index, "grad * score".to_owned());
            factor = read("factor");
        }
        let mut sum = format!("score * {factor}");
        for (at, Added { index, coefficient, .. }) in self.added.iter().enumerate() {
            let (name, coefficient) = (format!("added{at}"), coefficient.wgsl());
            describe(&name, *index, format!("grad * ({coefficient})"));
            sum += &format!(" + {} * ({coefficient})", read(&name));
        }
        text += &format!(
            "fn score_mod(score: f32, {CELL}) -> f32 {{ return {sum}; }}\n\
             fn score_mod_grad(grad: f32, score: f32, {CELL}) -> f32 {{ return grad * {factor}; }}"
        );
        let function = WgslFunction::new(text).unwrap();
        self.buffers().into_iter().fold(function, |function, (name, values)| {
            function.buffer(&*name, WgslBuffer::F32, values.len()).unwrap()
        })
    }

    pub(super) fn add_to(&self, data: AuxData) -> AuxData {
        self.buffers()
            .into_iter()
            .fold(data, |data, (name, values)| data.custom_f32(&name, values.iter().copied()))
    }

    /// What the score of a cell is multiplied with.
    pub(super) fn factor(&self, cell: [usize; 4]) -> f32 {
        self.factor.as_ref().map_or(1.0, |(values, index)| {
            values[index.of(&self.shape, cell).min(values.len() - 1)]
        })
    }

    /// What is added then.
    pub(super) fn added(&self, cell: [usize; 4]) -> f64 {
        let read = |added: &Added| {
            let at = added.index.of(&self.shape, cell).min(added.values.len() - 1);
            f64::from(added.values[at]) * added.coefficient.of(cell[3])
        };
        self.added.iter().map(read).sum()
    }

    /// The elements that a cell reads, one of each of [`Learned::buffers`], with the derivatives of what the function returns.
    pub(super) fn derivatives(&self, cell: [usize; 4], score: f64) -> Vec<(usize, f64)> {
        let place = |index: Index, len: usize| index.of(&self.shape, cell).min(len - 1);
        let factor = self.factor.iter().map(|(values, index)| (place(*index, values.len()), score));
        let added = (self.added.iter())
            .map(|added| (place(added.index, added.values.len()), added.coefficient.of(cell[3])));
        factor.chain(added).collect()
    }
}
