//! The same shaders here and on the first adapter that wgpu finds: generated expressions, and what kernels consist of.
//!
//! Integers, comparisons, conversions, rounding and the exact functions must agree bit for bit; what WGSL gives a bound for
//! within that bound, see [`Exactness`].

use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};

/// Invocations of a test: one workgroup of 64.
const COUNT: usize = 64;

/// How results may differ.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Exactness {
    Bits,
    /// Relative to the result and at least to this size: functions whose error WGSL bounds, or leaves to the driver.
    Relative(f32, f32),
}

/// An adapter's device, or one under the sanitizer with subgroups as large.
struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

fn devices() -> (Device, Device, Sanitizer) {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let options = wgpu::RequestAdapterOptions::default();
    let adapter = pollster::block_on(instance.request_adapter(&options))
        .expect("this test needs a GPU, or a software one");
    let info = adapter.get_info();
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features()
            & (wgpu::Features::SUBGROUP
                | wgpu::Features::SHADER_F16
                | wgpu::Features::SHADER_F64
                | wgpu::Features::SHADER_INT64),
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let sanitizer = Sanitizer::new(DeviceOptions {
        subgroup_size: info.subgroup_max_size.min(128),
        ..DeviceOptions::default()
    });
    let own = Device { device: sanitizer.device().clone(), queue: sanitizer.queue().clone() };
    (Device { device, queue }, own, sanitizer)
}

impl Device {
    /// What `main` of a text leaves in binding 1, given binding 0.
    fn run(&self, text: &str, input: &[u32], output_words: usize) -> Vec<u32> {
        let usages = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let buffer = |size: usize, usage| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size as u64 * 4,
                usage,
                mapped_at_creation: false,
            })
        };
        let [from, to] = [input.len(), output_words].map(|words| buffer(words, usages));
        let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.queue.write_buffer(&from, 0, &bytes);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let entry = |binding, read_only| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[entry(0, true), entry(1, false)],
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: from.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: to.as_entire_binding() },
            ],
        });
        let staging =
            buffer(output_words, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        encoder.copy_buffer_to_buffer(&to, 0, &staging, 0, Some(output_words as u64 * 4));
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let view = staging.get_mapped_range(..).unwrap();
        view.chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u32) as usize]
    }
}

/// Numbers of every kind: three words of bits and three floats per invocation.
fn inputs() -> Vec<u32> {
    let mut random = Random(7);
    let bits = [0, 1, 2, 31, 32, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x00ff_00ff];
    let floats = [0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.75, 1e6, -1e-3, 65504.0, 16_777_216.0];
    let mut words = Vec::new();
    for _ in 0..COUNT {
        for _ in 0..3 {
            let special = bits[random.below(9) as usize];
            words.push(if random.below(3) == 0 {
                special
            } else {
                random.next() >> random.below(32)
            });
        }
        for _ in 0..3 {
            let special = floats[random.below(12) as usize];
            let other =
                (random.next() as f32 / 2f32.powi(32) - 0.5) * 2f32.powi(random.below(12) as i32);
            words.push(if random.below(3) == 0 { special } else { other }.to_bits());
        }
    }
    words.extend([1, 7, 0x8000_0000, u32::MAX, 5, 0x8000_0001]);
    words
}

/// A kernel that writes each expression's u32 for each invocation.
fn kernel(expressions: &[String]) -> String {
    let mut text = String::from(
        "enable f16;
        @group(0) @binding(0) var<storage, read> input: array<u32>;
        @group(0) @binding(1) var<storage, read_write> output: array<u32>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) at: u32) {
            let a = input[at * 6u]; let b = input[at * 6u + 1u]; let c = input[at * 6u + 2u];
            let i = bitcast<i32>(a); let j = bitcast<i32>(b); let k = bitcast<i32>(c);
            let x = bitcast<f32>(input[at * 6u + 3u]);
            let y = bitcast<f32>(input[at * 6u + 4u]);
            let z = bitcast<f32>(input[at * 6u + 5u]);
            // Constants that no compiler folds: those overflow.
            let one = input[384]; let seven = input[385]; let top = input[386];
            let i_minus = bitcast<i32>(input[387]); let i_five = bitcast<i32>(input[388]);
            let i_least = bitcast<i32>(input[389]);\n",
    );
    for (number, expression) in expressions.iter().enumerate() {
        let count = expressions.len();
        text += &format!("            output[at * {count}u + {number}u] = {expression};\n");
    }
    text + "        }\n"
}

#[track_caller]
fn compare(expressions: &[String], exactness: Exactness) {
    let (driver, own, sanitizer) = devices();
    for expressions in expressions.chunks(32) {
        let text = kernel(expressions);
        let words = COUNT * expressions.len();
        let expected = driver.run(&text, &inputs(), words);
        let found = own.run(&text, &inputs(), words);
        for (at, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            let [x, y] = [found, expected].map(f32::from_bits);
            let agrees = match exactness {
                Exactness::Bits => found == expected,
                Exactness::Relative(factor, least) => {
                    (x.is_nan() && y.is_nan())
                        || x == y
                        || (x - y).abs() <= factor * y.abs().max(least)
                }
            };
            let expression = &expressions[at % expressions.len()];
            let row = &inputs()[at / expressions.len() * 6..][..6];
            assert!(
                agrees,
                "{expression}: {found:#x} ({x}), the driver has {expected:#x} ({y}); {row:x?}, floats {:?}",
                row[3..].iter().map(|word| f32::from_bits(*word)).collect::<Vec<_>>()
            );
        }
        for dispatch in sanitizer.take() {
            let allowed = |found: &wgsl_sanitizer::Finding| {
                use wgsl_sanitizer::FindingKind::{Division, NotANumber, Shift};
                matches!(found.kind, Division | NotANumber | Shift)
            };
            assert!(dispatch.report.findings.iter().all(allowed), "{}", dispatch.report);
        }
    }
}

fn unsigned(random: &mut Random, depth: u32) -> String {
    if depth == 0 {
        return random.pick(&["a", "b", "c", "one", "seven", "top", "at"]).to_owned();
    }
    let next = |random: &mut Random| unsigned(random, depth - 1);
    match random.below(12) {
        0..=3 => {
            let op = random.pick(&["+", "-", "*", "/", "%", "&", "|", "^"]);
            format!("({} {op} {})", next(random), next(random))
        }
        4 => format!("({} {} ({} & 31u))", next(random), random.pick(&["<<", ">>"]), next(random)),
        5 => format!("{}({}, {})", random.pick(&["min", "max"]), next(random), next(random)),
        6 => {
            let name = random.pick(&[
                "countOneBits",
                "countLeadingZeros",
                "countTrailingZeros",
                "reverseBits",
                "firstLeadingBit",
                "firstTrailingBit",
            ]);
            format!("{name}({})", next(random))
        }
        7 => {
            let compare = random.pick(&["<", "<=", ">", ">=", "==", "!="]);
            let [l, r, p, q] = [(); 4].map(|()| next(random));
            format!("select({l}, {r}, {p} {compare} {q})")
        }
        8 => {
            format!("extractBits({}, {} % 33u, {} % 33u)", next(random), next(random), next(random))
        }
        9 => format!(
            "insertBits({}, {}, {} % 33u, {} % 33u)",
            next(random),
            next(random),
            next(random),
            next(random)
        ),
        10 => format!("bitcast<u32>({})", signed(random, depth - 1)),
        _ => format!("(~{})", next(random)),
    }
}

fn signed(random: &mut Random, depth: u32) -> String {
    if depth == 0 {
        return random.pick(&["i", "j", "k", "i_minus", "i_five", "i_least"]).to_owned();
    }
    let next = |random: &mut Random| signed(random, depth - 1);
    match random.below(9) {
        0..=3 => {
            let op = random.pick(&["+", "-", "*", "/", "%", "&", "|", "^"]);
            format!("({} {op} {})", next(random), next(random))
        }
        4 => format!(
            "({} {} ({} & 31u))",
            next(random),
            random.pick(&["<<", ">>"]),
            unsigned(random, depth - 1)
        ),
        5 => format!("{}({}, {})", random.pick(&["min", "max"]), next(random), next(random)),
        6 => format!(
            "{}({})",
            random.pick(&["abs", "sign", "-", "~", "firstLeadingBit", "countOneBits"]),
            next(random)
        ),
        7 => format!("clamp({}, -9i, {} & 255i)", next(random), next(random)),
        _ => format!(
            "extractBits({}, {} % 33u, {} % 33u)",
            next(random),
            unsigned(random, 0),
            unsigned(random, 0)
        ),
    }
}

#[test]
fn integers_agree_bit_for_bit() {
    let mut random = Random(1);
    let mut expressions: Vec<String> = (0..96).map(|_| unsigned(&mut random, 3)).collect();
    expressions.extend((0..64).map(|_| format!("bitcast<u32>({})", signed(&mut random, 3))));
    compare(&expressions, Exactness::Bits);
}

/// Sums, products and what rounds to whole numbers; a product that is added to is one that no compiler fuses.
fn exact_float(random: &mut Random, depth: u32) -> String {
    if depth == 0 {
        return random.pick(&["x", "y", "z", "1.5", "-0.25", "3.0"]).to_owned();
    }
    let next = |random: &mut Random| exact_float(random, depth - 1);
    match random.below(8) {
        0 => format!("({} {} {})", next(random), random.pick(&["+", "-"]), next(random)),
        1 => format!("({} * {})", exact_float(random, 0), exact_float(random, 0)),
        2 => format!("{}({}, {})", random.pick(&["min", "max"]), next(random), next(random)),
        3 | 4 => format!(
            "{}({})",
            random.pick(&["abs", "sign", "floor", "ceil", "trunc", "round", "-"]),
            next(random)
        ),
        5 => format!("clamp({}, -2.0, 2.0)", next(random)),
        6 => format!(
            "select({}, {}, {} < {})",
            next(random),
            next(random),
            next(random),
            next(random)
        ),
        _ => format!("step({}, {})", next(random), next(random)),
    }
}

#[test]
fn exact_float_arithmetic_agrees_bit_for_bit() {
    let mut random = Random(2);
    let expressions: Vec<String> = (0..96)
        .map(|_| {
            // Zeros of either sign are equal.
            format!("bitcast<u32>({} + 0.0)", exact_float(&mut random, 3))
        })
        .collect();
    compare(&expressions, Exactness::Relative(1.2e-7, 1e-30));
}

#[test]
fn conversions_and_packing_agree_bit_for_bit() {
    let expressions = [
        "u32(x)",
        "bitcast<u32>(i32(x))",
        "u32(clamp(y, -5.0, 5e9))",
        "bitcast<u32>(f32(a))",
        "bitcast<u32>(f32(i))",
        "u32(bool(a))",
        "bitcast<u32>(f32(a > b))",
        "bitcast<u32>(quantizeToF16(y))",
        "pack2x16float(vec2<f32>(x, y))",
        "pack4x8snorm(vec4<f32>(x, y, z, 0.25) / 64.0)",
        "pack4x8unorm(vec4<f32>(x, y, z, 0.25) / 64.0)",
        "pack2x16snorm(vec2<f32>(x, y) / 64.0)",
        "pack2x16unorm(vec2<f32>(x, y) / 64.0)",
        "pack4xI8(vec4<i32>(i, j, k, 3))",
        "pack4xU8(vec4<u32>(a, b, c, 3u))",
        "pack4xI8Clamp(vec4<i32>(i, j, k, 3))",
        "pack4xU8Clamp(vec4<u32>(a, b, c, 3u))",
        "bitcast<u32>(unpack4xI8(a).y)",
        "unpack4xU8(a).z",
        "bitcast<u32>(unpack2x16float(a & 0x7bff7bffu).y)",
        "bitcast<u32>(dot4I8Packed(a, b))",
        "dot4U8Packed(a, b)",
        "u32(u64(a) * u64(b) >> 17u)",
        "u32((i64(i) * i64(j)) >> 20u)",
        "u32(u64(a) / (u64(b) + 1lu))",
        "bitcast<u32>(f32(i64(i) * 3li))",
        "dot(vec3<u32>(a, b, c), vec3<u32>(c, 2u, b))",
        "bitcast<u32>(dot(vec2<i32>(i, j), vec2<i32>(k, -3i)))",
        "u32(all(vec3<u32>(a, b, c) > vec3<u32>(7u))) + 2u * u32(any(vec2<bool>(x > y, i < j)))",
        "vec4<u32>(a, b, c, at).wzyx[at % 4u]",
        "bitcast<u32>(transpose(mat2x3<f32>(x, y, z, 1.0, 2.0, 3.0))[at % 3u].y)",
        "bitcast<u32>(ldexp(1.5, i % 20i))",
        "bitcast<u32>(frexp(x + 0.0).fract)",
        "bitcast<u32>(frexp(x + 0.0).exp)",
        "bitcast<u32>(modf(x).whole)",
    ];
    compare(&expressions.map(String::from), Exactness::Bits);
}

#[test]
fn functions_agree_within_their_bounds() {
    // WGSL's bounds are wider for some; of large arguments drivers reduce angles by less.
    let expressions = [
        "x / (abs(y) + 0.5)",
        "sqrt(abs(x))",
        "inverseSqrt(abs(x) + 0.1)",
        "exp(clamp(x, -20.0, 20.0))",
        "exp2(clamp(x, -20.0, 20.0))",
        "log(abs(x) + 2.0)",
        "log2(abs(x) + 2.0)",
        "pow(abs(x) + 0.5, clamp(y, -4.0, 4.0))",
        "sin(clamp(x, -3.0, 3.0))",
        "cos(clamp(x, -3.0, 3.0))",
        "tan(clamp(x, -1.2, 1.2))",
        "asin(clamp(x, -0.9, 0.9))",
        "acos(clamp(x, -0.9, 0.9))",
        "atan(x)",
        "atan2(x, y + 0.5)",
        "sinh(clamp(x, -4.0, 4.0))",
        "cosh(clamp(x, -4.0, 4.0))",
        "tanh(clamp(x, -4.0, 4.0))",
        "asinh(clamp(x, -9.0, 9.0))",
        "acosh(abs(x) + 1.5)",
        "atanh(clamp(x, -0.9, 0.9))",
        "fma(x, y, z)",
        "mix(x, y, 0.25)",
        "smoothstep(-2.0, 3.0, x)",
        "fract(x)",
        "saturate(x)",
        "degrees(x)",
        "radians(x)",
        "length(vec3<f32>(x, y, z))",
        "distance(vec2<f32>(x, y), vec2<f32>(z, 1.0))",
        "normalize(vec3<f32>(x, y, z) + vec3<f32>(0.1, 0.2, 0.3)).y",
        "dot(vec4<f32>(x, y, z, 1.0), vec4<f32>(1.0, 0.5, 0.25, 2.0))",
        "cross(vec3<f32>(x, y, z), vec3<f32>(1.0, 2.0, 3.0)).x",
        "reflect(vec2<f32>(x, y), vec2<f32>(0.6, 0.8)).x",
        "refract(vec2<f32>(0.6, -0.8), vec2<f32>(0.0, 1.0), clamp(x, 0.2, 0.9)).y",
        "faceForward(vec2<f32>(x, y), vec2<f32>(z, 1.0), vec2<f32>(0.5, 0.5)).x",
        "determinant(mat2x2<f32>(x, y, z, 2.0))",
        "determinant(mat3x3<f32>(x, 1.0, 2.0, 3.0, y, 4.0, 5.0, 6.0, z) * 0.1)",
        "determinant(mat4x4<f32>(x, 1.0, 0.0, 2.0, 3.0, y, 4.0, 0.0, 5.0, 6.0, z, 1.0, 0.5, 0.0, 2.0, 1.0) * 0.1)",
        "(mat2x3<f32>(x, y, z, 1.0, 2.0, 3.0) * vec2<f32>(0.5, z)).y",
        "(vec3<f32>(x, y, z) * mat2x3<f32>(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)).x",
        "(mat2x2<f32>(x, y, z, 1.0) * mat2x2<f32>(2.0, 1.0, 0.5, y))[1].x",
        "modf(x).fract",
        "f32(sqrt(f16(abs(x % 9.0))))",
        "f32(fma(f16(x % 4.0), f16(y % 4.0), f16(0.5)))",
        // Compilers may leave the rounding to f16 out.
        "f32(f16(x % 9.0))",
        "f32(f16(x % 9.0) + f16(y % 9.0))",
        "f32(f64(x) * 1.25lf + f64(y))",
    ];
    let expressions = expressions.map(|expression| format!("bitcast<u32>({expression})"));
    compare(&expressions, Exactness::Relative(2e-3, 1.0));
    // What kernels of attention consist of, closer.
    let close = [
        "x / (abs(y) + 0.5)",
        "sqrt(abs(x))",
        "exp2(clamp(x, -20.0, 20.0))",
        "log2(abs(x) + 2.0)",
        "fma(x, y, z)",
    ];
    let close = close.map(|expression| format!("bitcast<u32>({expression})"));
    compare(&close, Exactness::Relative(4e-6, 1e-3));
}

#[test]
fn control_flow_functions_and_memory_agree() {
    let text = "
        @group(0) @binding(0) var<storage, read> input: array<u32>;
        @group(0) @binding(1) var<storage, read_write> output: array<u32>;
        struct Pair { low: u32, list: array<vec2<u32>, 3>, high: vec3<u32> }
        var<workgroup> tile: array<u32, 64>;
        var<workgroup> total: atomic<u32>;
        var<private> seen: u32;
        const TABLE = array<u32, 4>(3u, 1u, 4u, 1u);

        fn collatz(start: u32) -> u32 {
            var n = start % 1000u + 1u;
            var steps = 0u;
            loop {
                if (n == 1u) { break; }
                if (n % 2u == 0u) { n /= 2u; } else { n = 3u * n + 1u; }
                steps += 1u;
                continuing { break if steps >= 50u; }
            }
            return steps;
        }
        fn sort(list: ptr<function, array<u32, 5>>) -> u32 {
            var swaps = 0u;
            for (var i = 0u; i < 5u; i += 1u) {
                for (var j = i + 1u; j < 5u; j += 1u) {
                    if ((*list)[j] >= (*list)[i]) { continue; }
                    let old = (*list)[i];
                    (*list)[i] = (*list)[j];
                    (*list)[j] = old;
                    swaps += 1u;
                }
            }
            return swaps;
        }
        fn kind(value: u32) -> u32 {
            switch (value % 7u) {
                case 0u: { return 10u; }
                case 1u, 2u: { seen += 1u; }
                case 3u: { if (value > 100u) { break; } seen += 2u; }
                default: { for (var i = 0u; i < 4u; i += 1u) { if (i == value % 5u) { return i; } } }
            }
            return seen + 100u;
        }
        fn bump(value: ptr<function, u32>, by: u32) { *value = *value * 3u + by; }

        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) at: u32) {
            let a = input[at * 6u];
            let b = input[at * 6u + 1u];
            var list = array<u32, 5>(a, b, a ^ b, a + b, b % 97u);
            let swaps = sort(&list);
            var pair: Pair;
            pair.low = kind(a);
            pair.list[a % 3u] = vec2<u32>(a, b);
            pair.list[1].y += 5u;
            pair.high = vec3<u32>(list[0], list[2], list[4]);
            pair.high[b % 3u] = 9u;
            let copy = pair;
            var value = a;
            bump(&value, b);
            // naga 30 panics on a pointer to an element as an argument, when it writes SPIR-V.
            var element = list[a % 5u];
            bump(&element, 1u);
            list[a % 5u] = element;
            tile[at] = value;
            if (at == 0u) { atomicStore(&total, 0u); }
            workgroupBarrier();
            var sum = 0u;
            var k = 0u;
            while (k < 64u) { sum = sum * 31u + tile[(at + k * 7u) % 64u]; k += 9u; }
            atomicAdd(&total, a & 255u);
            atomicMax(&total, 3u);
            workgroupBarrier();
            let all = workgroupUniformLoad(&tile[5]);
            var result = collatz(a);
            result = result * 31u + swaps;
            result = result * 31u + copy.low;
            result = result * 31u + copy.list[b % 3u].x + copy.list[1].y;
            result = result * 31u + copy.high.x + copy.high.y * 3u + copy.high.z * 5u;
            result = result * 31u + list[a % 5u];
            result = result * 31u + TABLE[b % 4u] + kind(b) + seen;
            output[at * 4u] = result;
            output[at * 4u + 1u] = sum;
            output[at * 4u + 2u] = atomicLoad(&total);
            output[at * 4u + 3u] = all + arrayLength(&output);
        }";
    let (driver, own, sanitizer) = devices();
    assert_eq!(own.run(text, &inputs(), 4 * COUNT), driver.run(text, &inputs(), 4 * COUNT));
    for dispatch in sanitizer.take() {
        assert_eq!(dispatch.report.findings, [], "{}", dispatch.report);
    }
}

#[test]
fn subgroup_operations_agree() {
    let text = "
        @group(0) @binding(0) var<storage, read> input: array<u32>;
        @group(0) @binding(1) var<storage, read_write> output: array<u32>;
        @compute @workgroup_size(64)
        fn main(
            @builtin(local_invocation_index) at: u32,
            @builtin(subgroup_invocation_id) lane: u32,
            @builtin(subgroup_size) size: u32,
            @builtin(subgroup_id) subgroup: u32,
            @builtin(num_subgroups) subgroups: u32,
        ) {
            let a = input[at * 6u];
            let i = bitcast<i32>(a);
            var out: array<u32, 24>;
            out[0] = subgroupAdd(a);
            out[1] = bitcast<u32>(subgroupMin(i));
            out[2] = bitcast<u32>(subgroupMax(i));
            out[3] = subgroupAnd(a | 0xffu);
            out[4] = subgroupOr(a);
            out[5] = subgroupXor(a);
            out[6] = subgroupInclusiveAdd(a);
            out[7] = subgroupExclusiveAdd(a);
            out[8] = subgroupExclusiveMul(a | 1u);
            out[9] = subgroupInclusiveMul(a | 1u);
            out[10] = u32(subgroupAll(a > 3u)) + 2u * u32(subgroupAny(a > 3u));
            out[11] = subgroupBroadcastFirst(a);
            out[12] = subgroupBroadcast(a, 2u);
            out[13] = subgroupShuffle(a, (lane * 3u + 1u) % size);
            out[14] = subgroupShuffleXor(a, 3u);
            out[15] = select(0u, subgroupShuffle(a, lane ^ 1u), lane < 4u);
            let ballot = subgroupBallot((a & 1u) == 1u);
            out[16] = ballot.x;
            out[17] = ballot.y;
            out[18] = quadBroadcast(a, 1u);
            out[19] = quadSwapX(a) ^ quadSwapY(a) * 3u;
            out[20] = quadSwapDiagonal(a);
            if (lane % 3u == 1u) {
                out[21] = subgroupAdd(a & 0xffffu);
                out[22] = subgroupBroadcastFirst(lane);
            }
            out[23] = size * 1000u + subgroup * 100u + subgroups * 10000u + lane;
            for (var k = 0u; k < 24u; k += 1u) { output[at * 24u + k] = out[k]; }
        }";
    let (driver, own, sanitizer) = devices();
    let (found, expected) =
        (own.run(text, &inputs(), 24 * COUNT), driver.run(text, &inputs(), 24 * COUNT));
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "out[{}] of invocation {}", at % 24, at / 24);
    }
    for dispatch in sanitizer.take() {
        assert_eq!(dispatch.report.findings, [], "{}", dispatch.report);
    }
}
