// Classifies crops with the published ONNX model, as the model card says, and prints the answers as JSON:
//     node classify.mjs ENDPOINT NAME/NAME CACHE CROP.png ...
import {
  AutoModel,
  ImageClassificationPipeline,
  RawImage,
  ResNetForImageClassification,
  ViTImageProcessor,
  env,
} from "@huggingface/transformers";

const [endpoint, name, cache, ...crops] = process.argv.slice(2);
Object.assign(env, { remoteHost: endpoint, cacheDir: cache, allowLocalModels: false });

const processor = await ViTImageProcessor.from_pretrained(name);
const { pixel_values } = await processor(await Promise.all(crops.map((path) => RawImage.read(path))));
const everything = await AutoModel.from_pretrained(name, { dtype: "fp32" });
const outputs = await everything({ pixel_values });

const model = await ResNetForImageClassification.from_pretrained(name, { dtype: "fp32" });
const classify = new ImageClassificationPipeline({ task: "image-classification", model, processor });
const answers = await classify(crops, { top_k: null });

const listed = Object.fromEntries(Object.entries(outputs).map(([key, tensor]) => [key, tensor.tolist()]));
console.log(JSON.stringify({ ...listed, pixel_values: Array.from(pixel_values.data), answers }));
