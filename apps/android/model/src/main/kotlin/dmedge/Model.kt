// SPDX-License-Identifier: Apache-2.0
package dmedge

import java.io.Closeable
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * A bundle, loaded. Embeddings have unit length: the dot product of two is the score of a picture for a text.
 *
 * A bundle may be of a variant with fewer programs: BundleFacts.PROGRAMS names those that there are. Not for several
 * threads at once.
 *
 * @throws BundleException it is not the bundle that this module was written for
 */
class Model(val bundle: Artifact) : Closeable {
    private val module: Module
    private val tokenizer by lazy { Tokenizer(bundle.bytes("tokenizer.model"), BundleFacts.CONTEXT_LENGTH) }
    private val preprocess by lazy { Preprocess(bundle.json("preprocessor_config.json").asObject()) }

    init {
        if (bundle.digest != BundleFacts.DIGEST) {
            throw BundleException("found bundle ${bundle.digest}; expected ${BundleFacts.DIGEST}; run dmedge app android")
        }
        module = Module.load(File(bundle.root, BundleFacts.MODEL_FILE).path)
    }

    fun tokenIds(text: String): IntArray = tokenizer.encode(text)

    /** Bytes [IMAGE_SIZE, IMAGE_SIZE, 3]. */
    fun pixels(picture: Picture): ByteArray = preprocess(picture)

    /** An embedding, EMBED_DIM numbers. */
    fun encodeText(text: String): FloatArray = run("encode_text", *ofText(text))[0]

    /** An embedding, EMBED_DIM numbers. */
    fun encodeImage(picture: Picture): FloatArray = run("encode_image", ofPicture(picture))[0]

    /** The variant prompts: a score for each of labels.json. */
    fun classify(picture: Picture): FloatArray = run("classify", ofPicture(picture))[0]

    /** The variant fused: the logit of the match, then those of the other heads. */
    fun fusePair(picture: Picture, text: String): List<FloatArray> = run("fuse_pair", ofPicture(picture), *ofText(text))

    /** The outputs of one program, in the order of the manifest. */
    fun run(program: String, vararg inputs: Tensor): List<FloatArray> {
        val values = inputs.map { EValue.from(it) }.toTypedArray()
        return module.execute(program, *values).map { it.toTensor().dataAsFloatArray }
    }

    override fun close() = module.destroy()

    private fun ofPicture(picture: Picture): Tensor {
        val side = BundleFacts.IMAGE_SIZE.toLong()
        return Tensor.fromBlobUnsigned(pixels(picture), longArrayOf(1, side, side, 3))
    }

    private fun ofText(text: String): Array<Tensor> {
        val ids = tokenIds(text)
        val shape = longArrayOf(1, ids.size.toLong())
        return arrayOf(Tensor.fromBlob(ids, shape), Tensor.fromBlob(IntArray(ids.size) { 1 }, shape))
    }
}
