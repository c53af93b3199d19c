// The bundle and the runtime that runs it: what an app of your own depends on.
plugins {
    id("com.android.library")
}

android {
    namespace = "dmedge.model"
    compileSdk = 36
    defaultConfig {
        minSdk = 26
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    sourceSets {
        getByName("main").assets.directories.add("../assets")
        getByName("androidTest").assets.directories.add("../golden")
    }
}

dependencies {
    api(project(":core"))
    api("org.pytorch:executorch-android:1.5.1")
    androidTestImplementation("androidx.test:runner:1.7.0")
    androidTestImplementation("junit:junit:4.13.2")
}
